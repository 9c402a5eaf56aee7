"""What routing does on held-out text: top-k against causal decisions, accuracy of each, and the routers' outputs."""

import torch
from modcalc.models.losses import cross_entropy, membership
from modcalc.models.sampling import causal_forward
from torch import Tensor

from .run import Run

BINS = 41
EDGE = 10.0


@torch.no_grad()
def evaluate(run: Run) -> dict:
    """Losses in nats per byte, accuracies as shares of tokens, over the held-out sequences; {} for a model without a learned router."""
    mod = run.arm.spec.mod
    if mod is None or mod.router != "learned":
        return {}
    run.model.eval()
    sums: dict[str, float] = {}
    histograms = torch.zeros(len(run.model.plan.routed), BINS, dtype=torch.float64)
    right = {"router": [], "predictor": []}
    batches = run.corpus.held_out_batches(run.p.batch_size, run.p.seq_len, run.p.held_out_sequences)
    for tokens, targets in batches:
        tokens, targets = tokens.to(run.device), targets.to(run.device)
        with run.autocast():
            output = run.model(tokens)
            causal = {decide: causal_forward(run.model, tokens, decide=decide) for decide in right}
        losses = {"topk": cross_entropy(output, targets), **{decide: cross_entropy(out, targets) for decide, out in causal.items()}}
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0.0) + loss.item() * len(tokens)
        for decide, logits in (("router", [r.scores for r in output.routing]), ("predictor", [r.predicted for r in output.routing])):
            right[decide].append([correct(x, membership(r)) * len(tokens) for x, r in zip(logits, output.routing, strict=True)])
        histograms += torch.stack([histogram(r.scores) for r in output.routing])
    n = run.p.held_out_sequences
    loss = {name: total / n for name, total in sums.items()}
    return {
        "arm": run.arm.name,
        "seed": run.seed,
        "held_out_loss": loss,
        "causal_over_topk": {decide: loss[decide] / loss["topk"] - 1 for decide in right},
        "accuracy": {decide: mean([sum(column) / n for column in zip(*rows, strict=True)]) for decide, rows in right.items()},
        "accuracy_by_block": {decide: [sum(column) / n for column in zip(*rows, strict=True)] for decide, rows in right.items()},
        "router_histogram": {"edges": [-EDGE, EDGE], "bins": BINS, "share_by_block": (histograms / histograms.sum(1, keepdim=True)).tolist()},
    }


def correct(logits: Tensor, target: Tensor) -> float:
    """Share of tokens where logit > 0 says what top-k chose."""
    return ((logits > 0) == (target > 0)).double().mean().item()


def histogram(scores: Tensor) -> Tensor:
    return torch.histc(scores.float().clamp(-EDGE, EDGE), BINS, -EDGE, EDGE).double().cpu()


def mean(values: list[float]) -> float:
    return sum(values) / len(values)

"""What routing does on held-out text: top-k against causal decisions, accuracy of each, and the routers' outputs."""

from contextlib import ExitStack

import torch
from modcalc.models.decoder import Output
from modcalc.models.losses import cross_entropy, membership
from modcalc.models.routing import Scatter, Select
from modcalc.models.sampling import causal_forward
from torch import Tensor, nn

from .run import Run

BINS = 41
EDGE = 10.0
# The trained model with its choice of tokens replaced by chance (each keeps its r), and with every token going around.
ABLATIONS = ("random_choice", "all_around")


@torch.no_grad()
@torch.compiler.set_stance("force_eager")
def evaluate(run: Run) -> dict:
    """Losses in nats per byte, accuracies as shares of tokens, over the held-out sequences; {} for a model without a learned router."""
    mod = run.arm.spec.mod
    if mod is None or mod.router != "learned":
        return {}
    run.model.eval()
    torch.manual_seed(run.seed)
    sums: dict[str, float] = {}
    histograms = torch.zeros(len(run.model.plan.routed), BINS, dtype=torch.float64)
    left_out = torch.zeros(len(run.model.plan.routed), dtype=torch.float64)
    right: dict[str, list[list[float]]] = {"router": [], **({"predictor": []} if mod.predictor_width else {})}
    routed = [block for block in run.model.blocks if block.plan.routing]
    batches = run.corpus.held_out_batches(run.p.batch_size, run.p.seq_len, run.p.held_out_sequences)
    for tokens, targets in batches:
        with run.autocast():
            output = run.model(tokens)
            others = {decide: causal_forward(run.model, tokens, decide=decide) for decide in right}
            others |= {change: changed(run.model, tokens, change) for change in ABLATIONS}
            without = [changed(run.model, tokens, "all_around", block) for block in routed]
        left_out += torch.stack([cross_entropy(out, targets) for out in without]).double().cpu() * len(tokens)
        losses = {name: cross_entropy(out, targets) for name, out in {"topk": output, **others}.items()}
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0.0) + loss.item() * len(tokens)
        for decide, rows in right.items():
            logits = [r.scores if decide == "router" else r.predicted for r in output.routing]
            rows.append([correct(x, membership(r)) * len(tokens) for x, r in zip(logits, output.routing, strict=True)])
        histograms += torch.stack([histogram(r.scores) for r in output.routing])
    n = run.p.held_out_sequences
    loss = {name: total / n for name, total in sums.items()}
    return {
        "arm": run.arm.name,
        "seed": run.seed,
        "held_out_loss": loss,
        "ablation_over_topk": {change: loss[change] / loss["topk"] - 1 for change in ABLATIONS},
        "left_out_by_block": (left_out / n / loss["topk"] - 1).tolist(),
        "causal_over_topk": {decide: loss[decide] / loss["topk"] - 1 for decide in right},
        "accuracy": {decide: mean([sum(column) / n for column in zip(*rows, strict=True)]) for decide, rows in right.items()},
        "accuracy_by_block": {decide: [sum(column) / n for column in zip(*rows, strict=True)] for decide, rows in right.items()},
        "router_histogram": {"edges": [-EDGE, EDGE], "bins": BINS, "share_by_block": (histograms / histograms.sum(1, keepdim=True)).tolist()},
    }


def changed(model: nn.Module, tokens: Tensor, change: str, within: nn.Module | None = None) -> Output:
    """`model` on tokens [B, T], under one of ABLATIONS, of all routed blocks or `within` one."""
    with ExitStack() as hooks:
        for module in (within or model).modules():
            if change == "random_choice" and isinstance(module, Select):
                hook = module.register_forward_pre_hook(lambda _, args: (torch.randn_like(args[0]), *args[1:]))
            elif change == "all_around" and isinstance(module, Scatter):
                hook = module.register_forward_hook(lambda _, args, out: args[0])
            else:
                continue
            hooks.callback(hook.remove)
        return model(tokens)


def correct(logits: Tensor, target: Tensor) -> float:
    """Share of tokens where logit > 0 says what top-k chose."""
    return ((logits > 0) == (target > 0)).double().mean().item()


def histogram(scores: Tensor) -> Tensor:
    return torch.histc(scores.float().clamp(-EDGE, EDGE), BINS, -EDGE, EDGE).double().cpu()


def mean(values: list[float]) -> float:
    return sum(values) / len(values)

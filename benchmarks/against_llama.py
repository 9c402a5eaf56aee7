"""Our dense model against the transformers library's Llama of the same shape, in turn in one process.

    python -m benchmarks.against_llama [SPEC] [--batch 4] [--seconds 60] [--builds 7] [--device auto] [--dtype fp32] [--out FILE]

Both have the same weights, the same scaled_dot_product_attention and the same dtype, and see the same tokens; that they
compute the same logits is checked first. Forward (no gradients) and train step (mean cross-entropy, backward, fused AdamW)
are timed by modcalc's own clock, all eager, and freed memory is kept. Where memory happens to lie moves either by some percent for as long as a model
lives, so both are built several times, and go first in turn: the ratio is the median over the builds, its interval that of
their medians. Prints one JSON document: ratio, interval and its confidence (98.4 % of seven builds), samples of each build.
SPEC: a gated, bias-free, pre-norm shape (default: benchmarks/shapes/llama-512.yaml). Needs transformers.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modcalc import build, load
from modcalc.measure.hardware import DTYPES, describe, pick, pick_dtype
from modcalc.measure.heap import keep
from modcalc.measure.records import StepTime, ends
from modcalc.measure.stats import paired_ratio
from modcalc.measure.steps import ForwardStep, Tokens, TrainStep
from modcalc.measure.steptime import alternate, rounds_for, warm_up
from modcalc.render.output import machine_values
from modcalc.spec.schema import Spec

WARM = 3  # steps before the clock counts, but for the first build's, which warm the machine up


def llama(spec: Spec, like: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The library's model of this shape, with the weights of ours."""
    from transformers import LlamaConfig, LlamaForCausalLM

    block = like.plan.blocks[0]
    config = LlamaConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.d_model,
        intermediate_size=block.ffn.d_ff,
        num_hidden_layers=spec.n_layers,
        num_attention_heads=block.attention.n_heads,
        num_key_value_heads=block.attention.n_kv_heads,
        head_dim=block.attention.head_dim,
        max_position_embeddings=spec.seq_len,
        rope_theta=spec.positions.theta,
        rms_norm_eps=spec.norm.eps,
        tie_word_embeddings=spec.head.tied,
        attn_implementation="sdpa",
    )
    theirs = LlamaForCausalLM(config).to(device, dtype)
    names = {"embedding.tokens": "model.embed_tokens", "final_norm": "model.norm", "head": "lm_head"}
    parts = {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm", "attn.": "self_attn."}
    weights = {}
    for name, value in like.state_dict().items():
        path, _, leaf = name.rpartition(".")
        path = names.get(path, path.replace("blocks.", "model.layers."))
        for ours, other in parts.items():
            path = path.replace(ours, other)
        weights[f"{path}.{leaf}"] = value
    theirs.load_state_dict(weights)
    return theirs


class Logits(nn.Module):
    """The library's model as a function of tokens alone, without a cache."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens, use_cache=False).logits


class TheirTrainStep(TrainStep):
    """Our train step with the library's model and its loss."""

    def loss_of(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.model(inputs).float().flatten(0, 1), targets.flatten())


def check(spec: Spec, device: torch.device) -> float:
    """Largest relative difference of the logits, in fp32 whatever is timed; stops where they are not the same model."""
    ours = build(spec, device=device, dtype=torch.float32)
    theirs = Logits(llama(spec, ours, torch.float32, device))
    tokens = Tokens(1, spec.seq_len, spec.vocab_size, device, 0).buffer
    with torch.no_grad():
        a, b = ours(tokens).logits.double(), theirs(tokens).double()
    difference = ((a - b).norm() / b.norm()).item()
    if difference > 1e-4:
        sys.exit(f"the two models differ by {difference:.2e} of the logits: this is no comparison")
    return difference


def one_build(spec: Spec, mode: str, batch: int, dtype: torch.dtype, device: torch.device, seconds: float, n: int) -> dict[str, dict]:
    """What our steps and theirs take, of the n-th models, which lie where memory is free now. launch_s: the host's part on a GPU."""
    ours = build(spec, device=device, dtype=dtype)
    theirs = Logits(llama(spec, ours, dtype, device))
    inputs = [Tokens(batch, spec.seq_len + (mode == "train"), spec.vocab_size, device, 0) for _ in range(2)]
    if mode == "forward":
        steps = [ForwardStep(ours, inputs[0]), ForwardStep(theirs, inputs[1])]
    else:
        steps = [TrainStep(ours, inputs[0]), TheirTrainStep(theirs, inputs[1])]
    turn = 1 if n % 2 == 0 else -1
    steps, names = steps[::turn], ("ours_s", "theirs_s")[::turn]
    warm = [warm_up(step, device, WARM if n else None) for step in steps]
    samples = map(StepTime.of, alternate(steps, device, rounds_for(warm, device, seconds)))
    kept = ("median", "p25", "p75", "min", "n", "samples")
    found = {who: {name: getattr(t, name) for name in kept} | {"launch_s": w.launch_s} for who, t, w in zip(names, samples, warm, strict=True)}
    return dict(sorted(found.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", nargs="?", default=str(Path(__file__).parent / "shapes" / "llama-512.yaml"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60.0, help="for the samples of each mode, of all builds")
    parser.add_argument("--builds", type=int, default=7)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--out")
    options = parser.parse_args()
    import transformers

    device, spec = pick(options.device), load(options.spec)
    dtype = pick_dtype(options.dtype, device)
    keep()
    difference = check(spec, device)
    found = {}
    for mode in ("forward", "train"):
        builds = [one_build(spec, mode, options.batch, dtype, device, options.seconds / options.builds, n) for n in range(options.builds)]
        ratio = paired_ratio(*([one[who]["median"] for one in builds] for who in ("ours_s", "theirs_s")))
        found[mode] = {"time_ratio": ratio.value, "interval": ends(ratio), "confidence": ratio.confidence, "builds": builds}
        print(f"{mode}: ours / theirs {ratio.value:.3f}, interval {ends(ratio)}", file=sys.stderr)
    machine = describe(device)
    document = {
        "benchmark": "against_llama",
        "date": time.strftime("%Y-%m-%d"),
        "spec": spec.name,
        "batch": options.batch,
        "dtype": options.dtype,
        "logits_difference_fp32": difference,
        "device": machine.name,
        "threads": machine.threads,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        **found,
    }
    text = json.dumps(machine_values(document), indent=2) + "\n"
    sys.stdout.write(text)
    if options.out:
        Path(options.out).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

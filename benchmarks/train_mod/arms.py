"""The models that are compared, and how long each trains: modcalc itself solves the steps."""

from dataclasses import dataclass

import msgspec

from modcalc import account
from modcalc.spec.schema import Spec

from .data import VOCAB


@dataclass(frozen=True, slots=True)
class Preset:
    """Sizes of one experiment. steps: of the dense model, which set the training FLOPs of every arm but `mod_same_steps`."""

    d_model: int
    n_layers: int
    head_dim: int
    seq_len: int
    batch_size: int
    steps: int
    learning_rate: float
    interval: int  # steps between checkpoints with a validation
    seeds: int
    held_out_sequences: int
    predictor_width: int = 128
    aux_loss: float = 0.01  # the paper states none; with 0.05 the loss ended 2.5 % higher (cpu, one seed; no record is kept)
    warmup: int = 50
    dtype: str = "fp32"


PRESETS = {
    # Seconds; for tests.
    "smoke": Preset(32, 2, 16, 32, 4, 12, 3e-3, 4, 1, 8, predictor_width=8, warmup=2),
    # Two cores, half an hour. Small batches: here the number of steps counts.
    "cpu": Preset(128, 6, 64, 256, 4, 1440, 3e-3, 240, 2, 128),
    # One GPU.
    "gpu": Preset(256, 8, 64, 512, 16, 3000, 2e-3, 600, 3, 256, warmup=100, dtype="bf16"),
}


@dataclass(frozen=True, slots=True)
class Arm:
    """One model and its number of training steps."""

    name: str
    spec: Spec
    steps: int

    def train_flops(self, batch_size: int, steps: int) -> int:
        """FLOPs of `steps` training steps by convention matmul, forward and backward, routers and predictor included."""
        return steps * account(self.spec, batch=batch_size, phase="train").flops.train_step


def base_spec(p: Preset, name: str, mod: dict | None) -> Spec:
    shape = dict(
        name=name,
        vocab_size=VOCAB,
        seq_len=p.seq_len,
        d_model=p.d_model,
        n_layers=p.n_layers,
        attention={"n_heads": p.d_model // p.head_dim},
        mlp={"d_ff": 4 * p.d_model},
    )
    return msgspec.convert({**shape, **({"mod": mod} if mod else {})}, Spec)


def arms(p: Preset) -> list[Arm]:
    """Dense; MoD (12.5 % every other block, as in the paper) at the same training FLOPs and at the same steps; and at the same FLOPs two
    that differ in the router alone, learned or random: without a predictor, which only sampling needs and which would cost steps.
    """
    dense = base_spec(p, "dense", None)
    routed = {"capacity": 0.125, "every": 2}
    mod = base_spec(p, "mod", {**routed, "predictor_width": p.predictor_width, "aux_loss": p.aux_loss})
    no_predictor = base_spec(p, "mod_no_predictor", {**routed, "aux_loss": p.aux_loss})
    random = base_spec(p, "random", {**routed, "router": "random"})
    budget = p.steps * account(dense, phase="train").flops.train_step

    def same_flops(spec: Spec) -> int:
        return budget // account(spec, phase="train").flops.train_step

    return [
        Arm("dense", dense, p.steps),
        Arm("mod", mod, same_flops(mod)),
        Arm("mod_same_steps", mod, p.steps),
        Arm("mod_no_predictor", no_predictor, same_flops(no_predictor)),
        Arm("random", random, same_flops(random)),
    ]

"""What is computed: how many sequences and tokens, in which phase, and how a train step runs."""

from msgspec import Struct
from msgspec.structs import force_setattr

from modcalc.errors import UsageError
from modcalc.units import whole_number

PHASES = ("forward", "train", "prefill", "decode")
SAMPLING = ("prefill", "decode")
ROUTING = ("expected", "all", "none")
# Numbers that an optimizer holds per parameter, and whether it counts its steps (torch: one fp32 number per tensor).
OPTIMIZERS = {"adamw": (2, True), "momentum": (1, False), "sgd": (0, False)}
RECOMPUTE = ("none", "selective", "full")
ATTENTION = ("fused", "explicit")
DEVICES = ("cuda", "cpu")


class Workload(Struct, frozen=True):
    """What is computed. batch: sequences B. seq_len: new tokens T of each (1 for decode). context: tokens already cached.

    forward and train see whole sequences with top-k routing. prefill and decode route causally, each token by its own
    router, so a routed block's cost is a random number: `routing` says whether its expectation is billed, or its extremes (all
    tokens routed, or none; with no-op experts, as many real ones as can be, or as few). Prefill computes logits for the last token only.
    """

    batch: int = 1
    seq_len: int = 1
    context: int = 0
    phase: str = "forward"
    routing: str = "expected"

    @property
    def sampling(self) -> bool:
        return self.phase in SAMPLING

    @property
    def tokens(self) -> int:
        """New tokens in all sequences."""
        return self.batch * self.seq_len

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise UsageError(f"phase {self.phase!r}: one of {', '.join(PHASES)}")
        if self.routing not in ROUTING:
            raise UsageError(f"routing {self.routing!r}: one of {', '.join(ROUTING)}")
        for name in ("batch", "seq_len", "context"):
            force_setattr(self, name, whole_number(getattr(self, name), name))
        if self.batch < 1 or self.seq_len < 1 or self.context < 0:
            found = f"batch {self.batch}, seq_len {self.seq_len}, context {self.context}"
            raise UsageError(f"{found}: batch and seq_len are at least 1, context at least 0")
        if self.context and not self.sampling:
            raise UsageError(f"context {self.context}: only the phases prefill and decode attend to cached tokens")
        if self.phase == "decode" and self.seq_len != 1:
            raise UsageError(f"seq_len {self.seq_len}: decode computes 1 new token per sequence; its history is the context")


class Training(Struct, frozen=True):
    """How a train step runs.

    master: with a half-precision dtype the optimizer updates an fp32 copy of the weights, and its states are fp32 (mixed precision:
    Micikevicius et al. 2018, arXiv 1710.03740; 16 bytes per parameter with AdamW as in ZeRO, arXiv 1910.02054, section 3.1); False:
    everything is in the model's dtype. recompute: what the backward pass computes again: nothing, attention cores (selective) or
    blocks (full). attention: by a fused kernel wherever sinks and soft caps allow, or as explicit products. device: whose kernels.
    fsdp: how many GPUs hold the model in slices (FSDP2); 1: each holds all of it.
    """

    optimizer: str = "adamw"
    master: bool = True
    recompute: str = "none"
    attention: str = "fused"
    device: str = "cuda"
    fsdp: int = 1

    def __post_init__(self) -> None:
        allowed = {"optimizer": OPTIMIZERS, "recompute": RECOMPUTE, "attention": ATTENTION, "device": DEVICES}
        for name, names in allowed.items():
            if getattr(self, name) not in tuple(names):  # also what cannot be hashed
                raise UsageError(f"{name} {getattr(self, name)!r}: one of {', '.join(names)}")
        force_setattr(self, "fsdp", whole_number(self.fsdp, "fsdp"))
        if self.fsdp < 1:
            raise UsageError(f"fsdp {self.fsdp}: a number of GPUs, at least 1")


USUAL = Training()

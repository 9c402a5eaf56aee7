"""What is computed: how many sequences and tokens, in which phase."""

from msgspec import Struct
from msgspec.structs import force_setattr

from modcalc.errors import UsageError
from modcalc.units import whole_number

PHASES = ("forward", "train", "prefill", "decode")
SAMPLING = ("prefill", "decode")
ROUTING = ("expected", "all", "none")


class Workload(Struct, frozen=True):
    """What is computed. batch: sequences B. seq_len: new tokens T of each (1 for decode). context: tokens already cached.

    forward and train see whole sequences with top-k routing. prefill and decode route causally, each token by its own
    router, so a routed block's cost is a random number: `routing` says whether its expectation, its worst case (all
    tokens routed) or its best (none) is billed. Prefill computes logits for the last token only.
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

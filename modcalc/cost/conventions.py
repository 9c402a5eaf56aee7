"""What counts, by whose rule. A convention is data over the ledger's rows; it holds no formula of a model."""

from dataclasses import dataclass, replace

from modcalc.cost.ops import Op
from modcalc.spec.plan import Dim


@dataclass(frozen=True, slots=True)
class Convention:
    """A named choice of what counts. causal: full, half or exact attention (see AttentionCore.pairs)."""

    name: str
    counts: str
    citation: str
    causal: str = "full"

    def forward(self, op: Op) -> Dim:
        """Forward FLOPs of a row."""
        return op.flops(self.causal)

    def backward(self, op: Op) -> Dim:
        """Backward FLOPs of a row."""
        return op.grad_input_flops(self.causal) + op.grad_weight_flops(self.causal)


MATMUL = Convention(
    "matmul",
    "every matrix product at 2 FLOPs per multiply-add, attention over all T x T pairs; lookup, norms, softmax and elementwise work free",
    "the product counts of Kaplan et al. 2020 (arXiv 2001.08361, table 1) with attention, head and routers counted",
)


def convention(name: str = "matmul", causal: str | None = None) -> Convention:
    """The convention called `name`, with another rule for attention if `causal` is given."""
    return replace(MATMUL, causal=causal) if causal else MATMUL

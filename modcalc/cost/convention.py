"""What a convention is: data over the ledger's rows. It holds no formula of a model; `conventions` lists the published ones."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from msgspec import Struct

from modcalc.cost.ops import AttentionCore, Linear, Lookup, NormOp, Op, Pointwise, whole
from modcalc.spec.plan import Dim

# Tables of the vocabulary and of positions: what Kaplan et al. (arXiv 2001.08361, section 2.1) leave out of N.
EMBEDDINGS = ("embedding.tokens", "embedding.positions", "head")


def _products(op: Op, causal: str | None) -> Dim:
    return op.macs(causal)


def _gradients(op: Op, causal: str | None) -> Dim:
    return op.grad_input_flops(causal) + op.grad_weight_flops(causal)


def _params(op: Op, causal: str | None) -> Dim:
    return op.params * op.batch * op.length


def _active_params(op: Op, causal: str | None) -> Dim:
    return op.active_params * op.batch * op.length


def _tied_params(op: Op, causal: str | None) -> Dim:
    return op.d_in * op.d_out * op.batch * op.length if isinstance(op, Linear) and op.tied else 0


def _elements(op: Op, causal: str | None) -> Dim:
    return op.elements if isinstance(op, (NormOp, Pointwise)) else 0


def _width_pairs(op: Op, causal: str | None) -> Dim:
    return op.repeat * op.batch * op.pairs(causal) * 2 * op.d_model if isinstance(op, AttentionCore) else 0


# What a term may multiply, of one row, all its layers and sequences.
BASES: dict[str, Callable[[Op, str | None], Dim]] = {
    "products": _products,  # multiply-adds of matrix products
    "gradients": _gradients,  # FLOPs of their exact backward pass, nothing behind a stop-gradient
    "params": _params,  # parameters x tokens of the sequence, whether or not they pass
    "active params": _active_params,  # the same with experts and routed blocks by the share of tokens that use them
    "tied params": _tied_params,  # the head's matrix where the token table owns it
    "elements": _elements,  # entries that a norm or elementwise row makes
    "width pairs": _width_pairs,  # multiply-adds of attention with d_model in place of heads x head_dim
}


def tags(op: Op) -> set[str]:
    """What a term may choose rows by: kind, path, part (block, or frame: the rest), and the kind's own."""
    found = {f"kind:{op.kind}", f"path:{op.path}", "part:block" if in_block(op) else "part:frame"}
    if isinstance(op, Pointwise):
        found.add(f"what:{op.what}")
    elif isinstance(op, NormOp):
        found.add(f"norm:{op.norm}")
        if op.weight and not op.norm_is_grouped:
            found.add(f"norm:{op.norm} with weight")
    elif isinstance(op, Lookup):
        found.add("lookup:tied" if op.tied else "lookup:untied")
    return found


def in_block(op: Op) -> bool:
    """Whether the row belongs to a block: what activation recomputation runs again. Routers of recursions stand around blocks."""
    return op.path.startswith("blocks.")


class Term(Struct, frozen=True):
    """coefficient x basis, over the rows that carry a tag of `only` (empty: any row) and none of `but`."""

    coefficient: int | Fraction
    basis: str
    only: tuple[str, ...] = ()
    but: tuple[str, ...] = ()

    def of(self, op: Op, causal: str | None) -> Dim:
        """What this term counts of a row, all its layers and sequences; 0 for rows that it leaves out."""
        if self.only or self.but:
            found = tags(op)
            if not found.isdisjoint(self.but) or (self.only and found.isdisjoint(self.only)):
                return 0
        return self.coefficient * BASES[self.basis](op, causal)


Terms = tuple[Term, ...]


def times(factor: int, terms: Terms) -> Terms:
    """The same terms with `factor` times their coefficients."""
    return tuple(Term(factor * t.coefficient, t.basis, t.only, t.but) for t in terms)


class Convention(Struct, frozen=True):
    """A named choice of what counts, in FLOPs (or what `multiply_add` makes of them).

    counts: one line for a reader. causal: full, window, half, half-of-all or exact (see AttentionCore.pairs) where pairs of tokens
    count, else None. forward_terms, backward_terms: what each pass counts. recompute_terms: what the backward pass
    computes a second time, part of `backward`. multiply_add: what one multiply-add counts as.
    """

    name: str
    counts: str
    citation: str
    forward_terms: Terms
    backward_terms: Terms
    recompute_terms: Terms = ()
    causal: str | None = "full"
    multiply_add: int = 2

    @property
    def title(self) -> str:
        return f"convention {self.name}" + (f", causal {self.causal}" if self.causal else "")

    def forward(self, op: Op) -> Dim:
        """Forward FLOPs of a row."""
        return self._sum(self.forward_terms, op)

    def backward(self, op: Op) -> Dim:
        """Backward FLOPs of a row, recomputation included where the convention counts it."""
        return self._sum(self.backward_terms + self.recompute_terms, op)

    def _sum(self, terms: Terms, op: Op) -> Any:
        return whole(sum(term.of(op, self.causal) for term in terms))

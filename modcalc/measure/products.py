"""Multiply-adds of matrix products from the shapes of their operands, for operators that a counter has no formula for."""

from collections.abc import Sequence
from itertools import zip_longest
from math import prod

Shape = Sequence[int]


def matmul_macs(a: Shape, b: Shape) -> int:
    """`torch.matmul`: [..., M, K] @ [..., K, N]; batch dims broadcast, 1-d operands are a row or a column."""
    left = list(a) if len(a) > 1 else [1, *a]
    right = list(b) if len(b) > 1 else [*b, 1]
    dims = zip_longest(reversed(left[:-2]), reversed(right[:-2]), fillvalue=1)
    batch = prod(y if x == 1 else x for x, y in dims)
    return batch * left[-2] * left[-1] * right[-1]


def attention_macs(q: Shape, k: Shape, v: Shape) -> int:
    """q k^T and the product with v over all T x S pairs, masked or not; q: [..., H, T, N], k: [..., K, S, N], v: [..., K, S, N_v]."""
    return prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def attention_backward_macs(q: Shape, k: Shape, v: Shape) -> int:
    """Backward of a fused kernel: the scores again, then dV, dP, dQ and dK: 5 products, 2.5 times the forward if N = N_v."""
    return prod(q[:-1]) * k[-2] * (3 * q[-1] + 2 * v[-1])


def grouped_macs(a: Shape, b: Shape) -> int:
    """`torch._grouped_mm`: groups along the rows of a 2-d operand (or along the shared dim, both 2-d), or batched, both 3-d.

    Every row counts as belonging to some group; which one does not matter.
    """
    if len(a) == 2:
        return a[0] * a[1] * b[-1]
    return (a[0] if len(b) == 3 else 1) * a[1] * a[2] * b[-1]


def grouped_linear_macs(x: Shape, weight: Shape) -> int:
    """`modcalc::grouped_mm`: rows [M, K], each with one of the matrices [E, N, K]."""
    return x[0] * weight[1] * weight[2]


def einsum_macs(equation: str, shapes: Sequence[Shape]) -> int:
    """`torch.einsum` of one or two operands, as torch computes it.

    Labels of one operand alone are summed first; without a label to contract there is no matrix product.

    Raises ValueError for more operands: their cost depends on the order of contraction.
    """
    if len(shapes) > 2:
        raise ValueError(f"einsum of {len(shapes)} operands ({equation}): its cost depends on the order of contraction; use products of two")
    if len(shapes) < 2:
        return 0
    inputs, explicit, output = equation.replace(" ", "").partition("->")
    labelled = [_labels(term, len(shape)) for term, shape in zip(inputs.split(","), shapes, strict=True)]
    every = [label for labels in labelled for label in labels]
    hidden = {label for label in every if isinstance(label, int)}
    if explicit:
        out = set(output.replace("...", "")) | (hidden if "..." in output else set())
    else:
        out = hidden | {label for label in every if every.count(label) == 1}
    sizes = [dict(zip(labels, shape, strict=True)) for labels, shape in zip(labelled, shapes, strict=True)]
    contracted = [n for label, n in sizes[0].items() if label not in out and n > 1 and sizes[1].get(label, 1) > 1]
    if not contracted:
        return 0
    kept = (max(sizes[0].get(label, 1), sizes[1].get(label, 1)) for label in out)
    return prod(contracted) * prod(kept)


def _labels(term: str, dims: int) -> list[str | int]:
    """A label for each dim; those of an ellipsis are -1, -2, … from the right, so that they line up."""
    if "..." not in term:
        return list(term)
    before, after = term.split("...")
    hidden = dims - len(before) - len(after)
    return [*before, *range(-hidden, 0), *after]

"""Multiply-adds from shapes, against what torch computes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from modcalc.measure.products import attention_backward_macs, attention_macs, einsum_macs, grouped_macs, matmul_macs


def torch_flops(function: object, *shapes: tuple[int, ...]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function(*(torch.empty(shape, device="meta") for shape in shapes))
    return counter.get_total_flops()


@settings(max_examples=150)
@given(st.data())
def test_matmul_of_any_shapes(data: st.DataObject) -> None:
    m, k, n, *batch = (data.draw(st.integers(1, 4)) for _ in range(5))
    # At least one 2-d operand larger than a vector: torch computes those by mv and dot, which FlopCounterMode leaves out.
    left = tuple(data.draw(st.sampled_from([b, 1])) for b in batch[data.draw(st.integers(0, 2)) :]) + (m, k)
    right = tuple(data.draw(st.sampled_from([b, 1])) for b in batch[data.draw(st.integers(0, 2)) :]) + (k, n)
    assert 2 * matmul_macs(left, right) == torch_flops(torch.matmul, left, right)


def test_products_with_vectors() -> None:
    assert matmul_macs((3,), (3,)) == 3
    assert matmul_macs((2, 3), (3,)) == 6
    assert matmul_macs((3,), (5, 3, 2)) == 30
    assert matmul_macs((0, 2, 3), (1, 3, 4)) == 0


@settings(max_examples=300)
@given(st.data())
def test_einsum_as_torch_computes_it(data: st.DataObject) -> None:
    sizes = {label: data.draw(st.integers(1, 4)) for label in "abcde"}
    labels = st.lists(st.sampled_from("abcde"), min_size=1, max_size=4, unique=True)
    left, right = data.draw(labels), data.draw(labels)
    used = sorted({*left, *right})
    dots = data.draw(st.booleans())
    shapes, terms = [], []
    for term in (left, right):
        hidden = (2, 3)[data.draw(st.integers(0, 2)) :] if dots else ()
        at = data.draw(st.integers(0, len(term)))
        before, after = ([sizes[label] for label in part] for part in (term[:at], term[at:]))
        # Some dims are 1, which broadcasts.
        shapes.append(tuple(n if data.draw(st.integers(0, 5)) else 1 for n in (*before, *hidden, *after)))
        terms.append("".join([*term[:at], "..." if dots else "", *term[at:]]))
    equation = ",".join(terms)
    if data.draw(st.booleans()):
        kept = data.draw(st.lists(st.sampled_from(used), unique=True))
        equation += " -> " + ("..." if dots and data.draw(st.booleans()) else "") + "".join(kept)
    assert 2 * einsum_macs(equation, shapes) == torch_flops(lambda a, b: torch.einsum(equation, a, b), *shapes), (equation, shapes)


def test_einsum_of_one_and_of_three_operands() -> None:
    assert einsum_macs("abc->ca", [(2, 3, 4)]) == 0
    with pytest.raises(ValueError, match="3 operands"):
        einsum_macs("ab,bc,cd->ad", [(2, 3), (3, 4), (4, 5)])


@pytest.mark.parametrize(("batch", "heads", "kv_heads", "t", "s", "n", "nv"), [(2, 4, 4, 5, 5, 3, 3), (1, 4, 2, 5, 7, 3, 6), (3, 2, 1, 1, 9, 8, 2)])
def test_attention_is_its_two_products(batch: int, heads: int, kv_heads: int, t: int, s: int, n: int, nv: int) -> None:
    q, k, v = (batch, heads, t, n), (batch, kv_heads, s, n), (batch, kv_heads, s, nv)
    scores = matmul_macs(q, (batch, heads, n, s))
    values = matmul_macs((batch, heads, t, s), (batch, heads, s, nv))
    assert attention_macs(q, k, v) == scores + values
    grad_values, grad_scores = matmul_macs((batch, heads, s, t), (batch, heads, t, nv)), matmul_macs((batch, heads, t, nv), (batch, heads, nv, s))
    assert attention_backward_macs(q, k, v) == scores + grad_values + grad_scores + 2 * scores


def test_grouped_products() -> None:
    assert grouped_macs((6, 3), (2, 3, 4)) == 6 * 3 * 4  # rows shared out over 2 matrices
    assert grouped_macs((4, 6), (6, 3)) == 4 * 6 * 3  # the shared dim shared out: gradients of the weights
    assert grouped_macs((2, 5, 3), (3, 6)) == 5 * 3 * 6  # columns shared out
    assert grouped_macs((2, 5, 3), (2, 3, 6)) == 2 * 5 * 3 * 6

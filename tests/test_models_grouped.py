"""The operators behind the experts: values, gradients, FLOPs, and what torch asks of a custom operator."""

import pytest
import torch
from modcalc.models.grouped import grouped_mm, grouped_outer
from torch.utils.flop_counter import FlopCounterMode

M, E, N, K = 7, 4, 3, 5
# Rows per expert: uneven, one expert without any, and rows that belong to none at the end.
SPLITS = {"uneven": (3, 0, 2, 2), "one": (0, 7, 0, 0), "rest": (1, 2, 1, 0), "none": (0, 0, 0, 0)}
each_split = pytest.mark.parametrize("split", SPLITS)


def inputs(split: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, weight, a = (torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True) for shape in ((M, K), (E, N, K), (M, N)))
    return x, weight, a, torch.tensor(SPLITS[split]).cumsum(0)


def owners(split: str) -> list[int | None]:
    named: list[int | None] = [e for e, n in enumerate(SPLITS[split]) for _ in range(n)]
    return named + [None] * (M - len(named))


@each_split
def test_each_row_meets_its_own_matrix(split: str) -> None:
    x, weight, a, ends = inputs(split)
    y, outer = grouped_mm(x, weight, ends), grouped_outer(a, x, ends)
    for i, e in enumerate(owners(split)):
        torch.testing.assert_close(y[i], torch.zeros_like(y[i]) if e is None else weight[e] @ x[i])
    for e in range(E):
        want = sum((torch.outer(a[i], x[i]) for i, owner in enumerate(owners(split)) if owner == e), torch.zeros(N, K, dtype=torch.float64))
        torch.testing.assert_close(outer[e], want)


@each_split
def test_gradients(split: str) -> None:
    x, weight, a, ends = inputs(split)
    assert torch.autograd.gradcheck(lambda x, w: grouped_mm(x, w, ends), (x, weight))
    assert torch.autograd.gradgradcheck(lambda x, w: grouped_mm(x, w, ends), (x, weight))
    assert torch.autograd.gradcheck(lambda a, b: grouped_outer(a, b, ends), (a, x))


@each_split
def test_they_are_proper_custom_operators(split: str) -> None:
    x, weight, a, ends = inputs(split)
    torch.library.opcheck(grouped_mm, (x, weight, ends))
    torch.library.opcheck(grouped_mm, (a, weight.transpose(1, 2), ends))
    torch.library.opcheck(grouped_outer, (a, x, ends))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@each_split
def test_torch_counts_them_whatever_the_split(split: str, device: str) -> None:
    x, weight, _, ends = (t.detach().to(device).requires_grad_(t.requires_grad) for t in inputs(split))
    with FlopCounterMode(display=False) as forward:
        y = grouped_mm(x, weight, ends)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    assert forward.get_total_flops() == 2 * M * N * K
    assert backward.get_total_flops() == 2 * forward.get_total_flops()

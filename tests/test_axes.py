"""Sweeps as users write them."""

import pytest

from modcalc.cost.axes import Axis, axis, combinations
from modcalc.errors import UsageError


@pytest.mark.parametrize(
    "text, found",
    [
        ("batch=1,2,4", Axis("batch", (1, 2, 4))),
        (" seq-len =8, 16", Axis("seq_len", (8, 16))),
        ("context=0,1000000000", Axis("context", (0, 10**9))),
    ],
)
def test_axes(text, found):
    assert axis(text) == found


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "NAME one of batch, seq-len, context"),
        ("layers=1,2", "NAME one of batch, seq-len, context"),
        ("batch", "without values; write batch=1,2,4"),
        ("batch=", "'' is no whole number"),
        ("batch=1,,2", "'' is no whole number"),
        ("batch=1_0", "'1_0' is no whole number"),
        ("batch=１", "'１' is no whole number"),
        ("batch=1,two", "'two' is no whole number; write batch=1,2,4"),
        ("batch=1.5", "'1.5' is no whole number"),
        ("batch=0,1", "batch 0: at least 1"),
        ("seq-len=-4", "seq-len -4: at least 1"),
        ("context=2000000000", "context 2000000000: at most 1,000,000,000"),
        ("seq-len=", "write seq-len=1,2,4"),
        ("batch=1e9999", "is no whole number"),
        ("batch=2,1,2", "a value stands there twice"),
    ],
)
def test_a_sweep_of_nonsense(text, says):
    with pytest.raises(UsageError, match="^sweep .*" + says.replace("(", r"\(")):
        axis(text)


def test_all_combinations():
    axes = [Axis("seq_len", (8, 16)), Axis("batch", (1, 2))]
    assert [tuple(values.items()) for values in combinations(axes, "forward")] == [
        (("seq_len", 8), ("batch", 1)),
        (("seq_len", 8), ("batch", 2)),
        (("seq_len", 16), ("batch", 1)),
        (("seq_len", 16), ("batch", 2)),
    ]
    assert combinations([], "decode") == [{}]
    with pytest.raises(UsageError, match="batch, batch: swept twice"):
        combinations([Axis("batch", (1,)), Axis("batch", (2,))], "forward")
    with pytest.raises(UsageError, match="sweep context instead"):
        combinations([Axis("seq_len", (8,))], "decode")

"""The benchmark that holds attribution against clocks around modules."""

import sys
from time import sleep

import pytest

torch = pytest.importorskip("torch")

from benchmarks import attribution_clocks  # noqa: E402
from modcalc.spec.schema import Attention, Mlp, Mod, Spec  # noqa: E402

SPEC = Spec(name="tiny", vocab_size=50, seq_len=16, d_model=16, n_layers=2, attention=Attention(n_heads=2), mlp=Mlp(ratio=4.0), mod=Mod(capacity=0.5))


class Slow(torch.nn.Module):
    """Takes 20 ms, and calls what it holds."""

    def __init__(self, *inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(*inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sleep(0.02)
        return self.inner(x)


def test_a_module_has_its_own_time_not_that_of_those_within():
    model, own = Slow(Slow(), torch.nn.Identity()), attribution_clocks.defaultdict(float)
    with attribution_clocks.clocks(model, own):
        model(torch.zeros(1))
    assert own[""] >= 0.02 and own["inner.0"] >= 0.02 and own["inner.1"] < 0.01
    assert sum(own.values()) < own[""] + own["inner.0"] + 0.01
    assert not any("forward" in vars(m) for m in model.modules())


def test_both_columns_are_whole_steps():
    table = attribution_clocks.table(SPEC, 1, 16, 1)
    assert {row[0] for row in table.rows} >= {"attention", "scores", "mlp", "router", "head", "other"}
    ours, clocks = (sum(row[i] for row in table.rows) for i in (1, 2))
    assert table.total[1:3] == [pytest.approx(ours), pytest.approx(clocks)]
    assert all(row[3] == pytest.approx((row[1] - row[2]) / clocks) for row in table.rows)


def test_what_it_prints(monkeypatch, capsys):
    monkeypatch.setattr(attribution_clocks, "load", lambda name: SPEC if name == "tiny" else None)
    monkeypatch.setattr(sys, "argv", ["attribution_clocks", "tiny", "--rounds", "1", "--batch", "2", "--seq-len", "8"])
    attribution_clocks.main()
    out = capsys.readouterr().out
    assert "tiny, forward, batch 2, 8 tokens" in out and "of the step; the profiler slowed it by" in out

"""Our own model of every imported type: ledger = fvcore = torch, by module path, and its parameters are the ledger's rows."""

import random

import pytest

pytest.importorskip("torch")
pytest.importorskip("fvcore")

from hub_configs import draw, nulled
from shallow import shallow

from modcalc import account, build
from modcalc.measure import agreement
from modcalc.spec.hub import from_config
from modcalc.spec.hub_types import TYPES
from modcalc.spec.mod_option import apply_mod

RUNS = (("fvcore", False), ("torch", True))


@pytest.mark.parametrize("model_type", sorted(TYPES))
@pytest.mark.parametrize("mod", [None, "capacity=0.5,every=1"])
@shallow
def test_ledger_equals_counters(model_type: str, mod: str | None) -> None:
    for seed in range(1 if mod else 2):
        config = nulled(draw(model_type, random.Random(f"counters {model_type} {seed}")))
        spec = from_config(config)
        report = account(apply_mod(spec, mod) if mod else spec, seq_len=10, batch=2)
        model = build(report.plan, device="meta")
        assert {name: tuple(p.shape) for name, p in model.named_parameters()} == report.weights(), config
        for counter, backward in RUNS:
            verdict = agreement.run(report, counter, backward=backward, device="cpu")  # sooner done than torch's Python code for meta
            assert verdict.reason is None, (config, verdict.reason)
            assert not verdict.differences, (config, [str(d) for d in verdict.differences])
            assert verdict.counted == verdict.analytic == (report.flops.train_step if backward else report.flops.forward), config

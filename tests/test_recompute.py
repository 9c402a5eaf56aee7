"""Hardware FLOPs against torch's own counter, which counts what is run again."""

from fractions import Fraction

import pytest
from variants import spec_of

from modcalc import account, build, load
from modcalc.cost.recompute import hardware_flops
from modcalc.cost.workload import ATTENTION, RECOMPUTE, Training
from modcalc.errors import UsageError
from modcalc.render.hardware import hardware_facts
from modcalc.render.wording import Unit
from modcalc.spec.schema import Spec

torch = pytest.importorskip("torch")
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count  # noqa: E402


def rerun(module: torch.nn.Module) -> None:
    """Keep only the module's inputs and run it again in the backward pass."""
    forward = module.forward
    module.forward = lambda *args, **kw: checkpoint(forward, *args, use_reentrant=False, **kw)


@pytest.mark.parametrize("recompute", RECOMPUTE)
@pytest.mark.parametrize("name", ["dense-small", "mod-small"])
def test_explicit_attention_as_torch_counts_it(name: str, recompute: str) -> None:
    spec = load(name)
    model = build(spec, device="meta", attention="explicit")
    for block in model.blocks:
        if recompute == "full":
            rerun(block)
        elif recompute == "selective":
            rerun(block.attn.core)
    tokens = torch.zeros(2, spec.seq_len, dtype=torch.long, device="meta")
    # torch may leave out a block's last product, which no gradient needs; the account does not.
    with set_checkpoint_early_stop(False), FlopCounterMode(display=False) as counter:
        model(tokens).logits.sum().backward()
    found = hardware_flops(account(spec, batch=2, phase="train"), Training(recompute=recompute, attention="explicit"))
    assert found.train_step == counter.get_total_flops()
    assert (found.recomputed > 0) == (recompute != "none")


def test_routers_of_recursions_stand_outside_of_what_runs_again() -> None:
    spec = spec_of("recursions, predictor")
    model = build(spec, device="meta", attention="explicit")
    for block in model.blocks:
        rerun(block)
    with set_checkpoint_early_stop(False), FlopCounterMode(display=False) as counter:
        out = model(torch.zeros(1, spec.seq_len, dtype=torch.long, device="meta"))
        (out.logits.sum() + sum(r.predicted.sum() for r in out.routing)).backward()
    report = account(spec, phase="train")
    found = hardware_flops(report, Training(recompute="full", attention="explicit"))
    assert found.recomputed == sum(flops for path, flops in report.by_path().items() if path.startswith("blocks."))
    assert found.train_step == counter.get_total_flops()


def test_fused_attention_as_torch_counts_it() -> None:
    """3.5 times the forward pass in all."""
    spec = load("gpt2")
    report = account(spec, phase="train", seq_len=64)
    shape = (1, 12, 64, 64)
    forward, backward = sdpa_flop_count(shape, shape, shape), sdpa_backward_flop_count(shape, shape, shape, shape)
    found = hardware_flops(report)
    assert backward == Fraction(5, 2) * forward
    assert found.train_step - report.flops.train_step == found.recomputed == 12 * (forward + backward - 3 * forward)
    assert found.backward == report.flops.backward + found.recomputed


@pytest.mark.parametrize("spec", [load("gpt2"), spec_of("recursions")], ids=lambda spec: spec.name)
def test_full_recomputation_is_megatrons(spec: Spec) -> None:
    report = account(spec, phase="train")
    megatron = account(spec, phase="train", convention="megatron")
    assert hardware_flops(report, Training(recompute="full", attention="explicit")).train_step == megatron.flops.train_step


def test_a_fused_kernel_needs_no_selective_recomputation() -> None:
    report = account(load("gpt2"), phase="train")
    assert hardware_flops(report, Training(recompute="selective")).recomputed == hardware_flops(report).recomputed


def test_sinks_and_soft_caps_cannot_be_fused() -> None:
    import msgspec

    fields = msgspec.to_builtins(load("dense-small"))
    for knob in ({"sinks": True}, {"softcap": 30.0}):
        spec = msgspec.convert({**fields, "attention": {**fields["attention"], **knob}}, type(load("gpt2")))
        report = account(spec, phase="train")
        plain = hardware_flops(report)
        assert (plain.recomputed, plain.attention) == (0, "explicit")
        assert "(explicit attention products, which sinks and soft caps need; " in hardware_facts(report, plain, Unit(False))[0][1]
        assert hardware_flops(report, Training(recompute="selective")).recomputed == report.by_path()["blocks.0.attn.core"] * spec.n_layers


def test_a_cpu_has_no_fused_kernel_for_values_of_another_width() -> None:
    report = account(spec_of("latent"), phase="train")
    assert hardware_flops(report).attention == hardware_flops(report, Training(device="cuda")).attention == "fused"
    plain = hardware_flops(report, Training(device="cpu"))
    assert (plain.attention, plain.train_step) == ("explicit", report.flops.train_step)
    assert hardware_flops(account(load("gpt2"), phase="train"), Training(device="cpu")).attention == "fused"


def test_names_and_conventions_that_cannot_be_served() -> None:
    for wrong in ({"recompute": "some"}, {"attention": "flash"}):
        with pytest.raises(UsageError, match="one of"):
            Training(**wrong)
    for name in ("megatron", "lingua"):
        with pytest.raises(UsageError, match="counts recomputation itself"):
            hardware_flops(account(load("gpt2"), phase="train", convention=name))
    assert ATTENTION == ("fused", "explicit")

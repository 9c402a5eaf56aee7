"""modcalc.build: where, in which precision, from which seed, and what it refuses."""

import subprocess
import sys

import msgspec
import pytest
import torch
from modcalc.models import Cache, Decoder
from torch.nn.functional import softplus
from torch.nn.utils.parametrize import register_parametrization

import modcalc
from modcalc.errors import ModcalcError, UsageError
from modcalc.spec.schema import Spec

TINY = dict(name="tiny", vocab_size=11, seq_len=8, d_model=8, n_layers=3, attention=dict(n_heads=2), mlp=dict(d_ff=16), mod=dict(capacity=0.5))


def tiny(**over: object) -> Spec:
    return msgspec.convert({**TINY, **over}, Spec)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_the_seed_settles_the_weights_and_nothing_else() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    a, b, c = modcalc.build(tiny()), modcalc.build(tiny()), modcalc.build(tiny(), seed=1)
    assert same(a, b) and not same(a, c)
    assert torch.equal(state, torch.get_rng_state())


def test_initial_weights() -> None:
    spec = tiny(
        d_model=128, vocab_size=300, attention=dict(n_heads=2, bias=True, sinks=True), mlp=dict(d_ff=256), mod=dict(predictor_width=64, every=1)
    )
    model = modcalc.build(spec)
    for path, p in model.named_parameters():
        if path.endswith(("bias", "sinks")):
            assert not p.any(), path
        elif "norm" in path:
            assert (p == 1).all(), path
        else:
            writes = path.endswith(("o_proj.weight", "mlp.down_proj.weight"))
            want = 1 / 128 if path.endswith("router.weight") else 128**-0.5 / (6**0.5 if writes else 1)
            assert p.std().item() == pytest.approx(want, rel=0.25 if p.numel() < 1000 else 0.05), path
            assert abs(p.mean().item()) < 0.2 * want * (4 if p.numel() < 1000 else 1), path
    offset = modcalc.build(tiny(norm=dict(unit_offset=True)))
    assert not any(p.any() for path, p in offset.named_parameters() if "norm" in path)


@pytest.mark.parametrize("routing", [dict(), dict(predictor_width=4), dict(bypass=dict(d_ff=4)), dict(granularity="mlp"), dict(router="random")])
def test_models_that_differ_in_routing_begin_alike_elsewhere(routing: dict) -> None:
    dense = modcalc.build(tiny(mod=None))
    routed, plain = (dict(modcalc.build(tiny(mod=dict(capacity=0.5, every=1, **mod))).named_parameters()) for mod in (routing, {}))
    assert all(torch.equal(p, routed[name]) for name, p in dense.named_parameters())
    routers = {name for name in routed if "router" in name}
    assert all(torch.equal(routed[name], plain[name]) for name in routers) and bool(routers) == (routing.get("router") != "random")


def test_weights_that_are_no_parameters_are_not_tied() -> None:
    model = modcalc.build(tiny())
    for part in (model.embedding.tokens, model.head):
        register_parametrization(part, "weight", torch.nn.Identity())
    before = model.head.weight.clone()
    assert torch.equal(model.double().head.weight, before.double()) and not torch.equal(before, model.embedding.tokens.weight)


def test_xielu_begins_with_the_same_slope_on_both_sides() -> None:
    act = modcalc.build(tiny(mlp=dict(d_ff=8, activation="xielu"))).blocks[0].mlp.act
    assert softplus(act.alpha_p).item() == pytest.approx(0.8) == act.BETA + softplus(act.alpha_n).item()


@pytest.mark.parametrize("name", ["bf16", "bfloat16", "torch.bfloat16", torch.bfloat16])
def test_dtype_by_any_of_its_names(name: object) -> None:
    model = modcalc.build(tiny(), dtype=name)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() is torch.float32


def test_a_tied_head_is_the_same_parameter() -> None:
    model = modcalc.build(tiny(head=dict(tied=True)))
    assert model.head.weight is model.embedding.tokens.weight


def test_plan_and_spec_build_the_same() -> None:
    plan = modcalc.resolve(tiny(), 6)
    assert same(modcalc.build(plan), modcalc.build(tiny(), seq_len=6))
    assert modcalc.build(plan).plan is plan


def test_a_tied_head_stays_tied_when_a_model_on_meta_gets_memory() -> None:
    for tied in (True, False):
        model = modcalc.build(tiny(head=dict(tied=tied)), device="meta")
        parameters = sum(p.numel() for p in model.parameters())
        model.to_empty(device="cpu")
        assert (model.head.weight is model.embedding.tokens.weight) == tied
        assert sum(p.numel() for p in model.parameters()) == parameters and not any(p.is_meta for p in model.parameters())


def test_a_tied_head_stays_tied_when_a_model_takes_over_weights() -> None:
    for tied in (True, False):
        spec = tiny(head=dict(tied=tied))
        source, model = modcalc.build(spec, seed=1), modcalc.build(spec, device="meta")
        model.load_state_dict(source.state_dict(), assign=True)
        assert (model.head.weight is model.embedding.tokens.weight) == tied and same(model, source)
    spec = tiny(head=dict(tied=True))
    source, model = modcalc.build(spec, seed=1), modcalc.build(spec, device="meta")
    state = source.state_dict()
    del state["embedding.tokens.weight"]
    model.load_state_dict(state, strict=False, assign=True)
    assert model.head.weight is model.embedding.tokens.weight and same(model, source)


def test_a_head_that_was_replaced_stays_so() -> None:
    model = modcalc.build(tiny(head=dict(tied=True)))
    model.head.weight = torch.nn.Parameter(model.head.weight.detach() + 1)
    before = model.head.weight.detach().clone()
    assert torch.equal(model.double().head.weight, before.double())
    for other in (torch.nn.Linear(model.plan.d_model, 3), torch.nn.Identity()):
        model.head = other
        names = list(model.state_dict())
        model.to(torch.float32)
        assert list(model.state_dict()) == names and model(torch.zeros(1, model.plan.seq_len, dtype=torch.int64)).logits.dtype == torch.float32


def test_meta_holds_no_memory() -> None:
    big = tiny(d_model=2**14, vocab_size=10**6, n_layers=100, attention=dict(n_heads=128), mlp=dict(ratio=4.0))
    model = modcalc.build(big, device="meta")
    assert all(p.is_meta for p in [*model.parameters(), *model.buffers()])
    assert sum(p.numel() for p in model.parameters()) == modcalc.account(big).params.total > 3 * 10**11


@pytest.mark.parametrize(
    "options, text",
    [
        (dict(device="gpu0"), "device 'gpu0'"),
        (dict(device="cuda:99"), "device 'cuda:99'"),
        (dict(dtype="bloat16"), "did you mean bfloat16"),
        (dict(dtype=torch.int8), "torch.int8"),
        (dict(attention="flash"), "one of sdpa, explicit"),
        (dict(seq_len=0), "at least 1 token"),
        (dict(device=None), "device 'None' cannot be used"),
        (dict(seed="a"), "seed 'a': a whole number"),
        (dict(seed=2**64), "allowed 0 to"),
    ],
)
def test_what_it_refuses(options: dict, text: str) -> None:
    with pytest.raises(UsageError, match=text) as caught:
        modcalc.build(tiny(), **options)
    assert "\n" not in str(caught.value)
    assert torch.get_default_dtype() is torch.float32


def test_what_is_no_spec_or_no_plan() -> None:
    for ask, text in (
        (lambda: Decoder(tiny()), "is no Plan: modcalc.resolve makes one"),
        (lambda: Cache(modcalc.resolve(tiny()), 0), "batch 0: at least 1 sequence"),
        (lambda: Cache(modcalc.resolve(tiny()), 2.5), "batch 2.5: a whole number"),
        (lambda: modcalc.dense_twin("mod-small"), "is no Spec: modcalc.load"),
        (lambda: modcalc.resolve(modcalc.resolve(tiny())), "a Plan, which is resolved already"),
        (lambda: modcalc.load(None), "None: allowed the path of a file"),
    ):
        with pytest.raises(ModcalcError, match=text):
            ask()


def test_a_plan_has_its_own_length() -> None:
    with pytest.raises(UsageError, match="for 8 tokens, not 9"):
        modcalc.build(modcalc.resolve(tiny()), seq_len=9)


def test_without_torch_it_says_what_to_install() -> None:
    code = """
import sys
sys.modules["torch"] = None
import modcalc
from modcalc.errors import MissingDependency
from modcalc.spec.schema import Attention, Mlp, Spec
spec = Spec(name="t", vocab_size=5, seq_len=4, d_model=4, n_layers=1, attention=Attention(n_heads=1), mlp=Mlp(d_ff=4))
try:
    modcalc.build(spec)
except MissingDependency as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'modcalc[torch]'" in out.stdout

"""Steps of sampling: fixed context, drawn decisions at the plan's share, and the same work as the model's own sampling."""

import msgspec
import pytest

from modcalc.cost.account import dense_twin
from modcalc.measure.records import Settings
from modcalc.spec.schema import Attention, Latent, Mlp, Mod, Spec

torch = pytest.importorskip("torch")
from modcalc.models.cache import Cache  # noqa: E402
from modcalc.models.sampling import decode, prefill  # noqa: E402

from modcalc.measure.build import build  # noqa: E402
from modcalc.measure.point import Job, measure  # noqa: E402
from modcalc.measure.sampling_steps import DrawnPass, filled, sampling_step  # noqa: E402
from modcalc.measure.steps import Tokens  # noqa: E402

CPU = torch.device("cpu")
SPEC = Spec(
    name="tiny",
    vocab_size=50,
    seq_len=32,
    d_model=16,
    n_layers=4,
    attention=Attention(n_heads=2, n_kv_heads=1),
    mlp=Mlp(ratio=2.0),
    mod=Mod(capacity=0.25),
)
LATENT = msgspec.structs.replace(SPEC, attention=Attention(n_heads=2, latent=Latent(kv_rank=6, nope_dim=4, rope_dim=2, v_dim=5)))
WINDOW = msgspec.structs.replace(SPEC, attention=Attention(n_heads=2, window=[5, None]))
RECURSIVE = msgspec.structs.replace(SPEC, mod=Mod(capacity=[1.0, 0.5, 0.25], recursions=3))

RECURSIVE_BEFORE = msgspec.structs.replace(SPEC, mod=Mod(capacity=[0.5, 0.25], recursions=2, layers=[0, 1]))
ALL_KEYS = msgspec.structs.replace(SPEC, mod=Mod(capacity=0.25, keys="all"))
CACHED = {"plain": SPEC, "latent": LATENT, "window": WINDOW, "recursive": RECURSIVE, "keys of all": ALL_KEYS}
MLP_ROUTED = msgspec.structs.replace(SPEC, mod=Mod(capacity=0.25, granularity="mlp"))


def settings(mode: str, **over) -> Settings:
    fields = dict(mode=mode, batch=4, seq_len=1 if mode == "decode" else 8, context=20 if mode == "decode" else 0)
    fields |= dict(dtype="fp32", compile=False, cuda_graph=False, iterations=6, warmup=1)
    return Settings(**{**fields, **over})


@pytest.mark.parametrize("spec", CACHED.values(), ids=CACHED)
@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_every_kind_of_cache_can_be_timed(spec, mode):
    done = measure(Job(spec=spec, baseline=None, settings=settings(mode), device=CPU))
    assert done.step_time_s.n == 6 and done.loss is None
    assert done.tokens_per_s == pytest.approx((4 if mode == "decode" else 32) / done.step_time_s.median)


@pytest.mark.parametrize("spec", CACHED.values(), ids=CACHED)
def test_a_step_has_room_for_its_token_and_no_more(spec):
    """Memory of a decode step is its cache, not twice that."""
    step = sampling_step(build(spec), settings("decode", context=100), CPU, 0)
    room = {place: layer.size for place, layer in step.cache.layers.items()}
    for place, layer in step.cache.layers.items():
        assert room[place] == min(int(step.held[place].max()) + 1, layer.limit or 101)
    for _ in range(3):
        step.prepare()
        step.run()
    assert {place: layer.size for place, layer in step.cache.layers.items()} == room


def test_a_sample_is_of_many_steps_where_either_model_draws():
    dense = msgspec.structs.replace(SPEC, mod=None)
    for spec, baseline, steps in ((SPEC, dense, 16), (dense, SPEC, 16), (dense, dense, 1)):
        done = measure(Job(spec=spec, baseline=baseline, settings=settings("decode", iterations=1), device=CPU))
        assert (done.step_time_s.steps, done.baseline.step_time_s.steps) == (steps, steps)


def test_each_decode_step_starts_from_the_same_context():
    step = sampling_step(build(SPEC), settings("decode"), CPU, 0)
    step.prepare()
    before = {place: layer.count.tolist() for place, layer in step.cache.layers.items()}
    for _ in range(3):
        step.run()
        assert step.cache.length == 21
        assert step.cache.layers[0, 0].count.tolist() == [21] * 4
        step.prepare()
        assert step.cache.length == 20
        assert {place: layer.count.tolist() for place, layer in step.cache.layers.items()} == before


def test_decode_without_context_stays_without():
    step = sampling_step(build(SPEC), settings("decode", context=0), CPU, 0)
    for _ in range(2):
        step.prepare()
        assert step.cache.length == 0 and all(layer.count is None or not layer.count.any() for layer in step.cache.layers.values())
        step.run()


def test_blocks_that_all_tokens_see_hold_all():
    """Those after a recursion, and those whose MLP alone is routed."""
    for spec, whole in ((RECURSIVE_BEFORE, [2, 3]), (MLP_ROUTED, [0, 1, 2, 3])):
        cache = filled(build(spec), Tokens(8, 1, 50, CPU, 0), 100)
        assert all(cache.layers[0, i].count.tolist() == [100] * 8 for i in whole)


@pytest.mark.parametrize("spec, share", [(SPEC, 0.25), (ALL_KEYS, 1.0), (RECURSIVE, None)])
def test_a_filled_cache_holds_the_plans_shares(spec, share):
    model = build(spec)
    cache = filled(model, Tokens(64, 1, 50, CPU, 0), 400)
    for (step, i), layer in cache.layers.items():
        part = layer.count.double().mean().item() / 400
        expected = (1.0, 0.5, 0.25)[step] if share is None else share if i % 2 else 1.0
        assert part == pytest.approx(expected, abs=0.02)
        assert all(row[:n].tolist() == sorted(row[:n].tolist()) for row, n in zip(layer.positions, layer.count, strict=True))
    assert cache.used_bytes == sum(int(layer.count.sum()) for layer in cache.layers.values()) * (2 * 8 if spec.attention.n_kv_heads else 16) * 4


@pytest.mark.parametrize("spec, expected", [(SPEC, {1: 0.25, 3: 0.25}), (RECURSIVE, {0: 1.0, 1: 0.5, 2: 0.25})])
def test_decisions_are_drawn_at_the_plans_share(spec, expected):
    model = build(spec)
    tokens = Tokens(3000, 1, 50, CPU, 0)
    cache = Cache(model.plan, 3000)
    DrawnPass(model, cache, tokens).one(tokens.buffer[:, 0])
    for key, share in expected.items():
        layer = cache.layers[(key, 0) if spec is RECURSIVE else (0, key)]
        assert layer.count.double().mean().item() == pytest.approx(share, abs=0.04)


def test_where_nothing_is_drawn_it_is_the_models_own_sampling():
    """A dense model: the timed steps compute what modcalc.models.sampling computes."""
    dense = msgspec.structs.replace(SPEC, mod=None)
    model = build(dense)
    seen = []
    head = model.head.register_forward_hook(lambda module, inputs, logits: seen.append(logits))
    step = sampling_step(model, settings("prefill"), CPU, 0)
    step.run()
    timed = sampling_step(model, settings("decode"), CPU, 0)
    timed.cache = step.cache
    timed.run()
    head.remove()
    cache = Cache(model.plan, 4)
    assert torch.equal(seen[0], prefill(model, step.tokens.buffer, cache))
    assert torch.equal(seen[1], decode(model, timed.tokens.buffer[:, 0], cache))


@pytest.mark.parametrize("spec", [SPEC, ALL_KEYS], ids=["plain", "keys of all"])
@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_time_between_modules_has_an_owner(mode, spec):
    done = measure(Job(spec=spec, baseline=None, settings=settings(mode), device=CPU, by="path"))
    lines = {line.label for line in done.attribution[0].lines}
    assert {"blocks.0", "blocks.0.attn", "blocks.1", "blocks.1.attn.core", "blocks.1.select", "blocks.1.router", "head"} <= lines
    routing = {line.label for line in done.attribution[0].routing}
    assert routing == ({"router", "select", "gather", "scatter"} if mode == "prefill" else {"router", "select"})


@pytest.mark.parametrize("routed, steps", [(True, 16), (False, 1)])
def test_a_sample_of_steps_that_chance_decides_is_a_mean(routed, steps):
    """A median of single steps would not be what they cost on average, which their FLOPs are."""
    dense = dense_twin(SPEC)
    found = measure(Job(spec=SPEC if routed else dense, baseline=dense, settings=settings("decode"), device=CPU))
    for model in (found, found.baseline):
        assert (model.step_time_s.steps, model.step_time_s.n, len(model.step_time_s.samples)) == (steps, 6, 6)
    assert (found.drawn, found.baseline.drawn) == (routed, False)


def test_slow_steps_are_not_taken_many_times_as_long_as_asked():
    """Six samples of sixteen steps would be: of as many steps as time is given for, one at least."""
    asked = settings("decode", iterations=None, seconds=1e-9)
    assert measure(Job(spec=SPEC, baseline=None, settings=asked, device=CPU)).step_time_s.steps == 1

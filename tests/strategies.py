"""Hypothesis strategies that draw small valid Specs over every knob of the schema.

Valid by construction: each draw respects the rules of modcalc.spec.validate, so nothing is filtered away.
Dims stay tiny (D 8..32, L 1..4, T 1..16, V 5..40), so that a drawn Spec can be built and run in milliseconds.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from hypothesis import strategies as st
from msgspec import structs
from msgspec.structs import replace

from modcalc.spec.resolve import exact
from modcalc.spec.schema import (
    Attention,
    Budget,
    Bypass,
    Embedding,
    FullAttention,
    Head,
    Latent,
    Limits,
    Mlp,
    Mod,
    Moe,
    Norm,
    Positions,
    ProjectionBias,
    QkNorm,
    Schedule,
    Spec,
    Train,
)

Draw = Callable[[st.SearchStrategy[Any]], Any]

SHARES = (0.0625, 0.125, 0.2, 0.29, 0.5, 0.75, 1.0)
PLAIN_ACTIVATIONS = ("gelu", "gelu_tanh", "silu", "relu", "relu2", "quick_gelu")


# Strategies are made once: to look a new one over takes as long as to draw from it.
MADE: dict[str, st.SearchStrategy[Any]] = {}


def sampled_from(values: Sequence[Any]) -> st.SearchStrategy[Any]:
    key = repr(values)  # as True == 1
    if key not in MADE:
        MADE[key] = st.sampled_from(values)
    return MADE[key]


@cache
def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def layer_lists(n_layers: int) -> st.SearchStrategy[list[int]]:
    """Ascending, not empty, within the model."""
    return st.sets(st.integers(0, n_layers - 1), min_size=1, max_size=n_layers).map(sorted)


def _choice_of_layers(draw: Draw, n_layers: int) -> dict:
    """every and offset, or an explicit list: at least one layer is chosen."""
    how = draw(sampled_from(("default", "every", "offset", "layers")))
    if how == "layers":
        return dict(layers=draw(layer_lists(n_layers)))
    if how == "offset":
        return dict(every=draw(st.integers(1, n_layers)), offset=draw(st.integers(0, n_layers - 1)))
    return dict(every=draw(st.integers(1, n_layers))) if how == "every" or n_layers < 2 else {}


def _norm(draw: Draw, parallel: str) -> Norm:
    kind, affine = draw(sampled_from(("rmsnorm", "layernorm"))), draw(sampled_from((True, True, False)))
    return Norm(
        kind=kind,
        affine=affine,
        bias=draw(sampled_from((None, True, False) if kind == "layernorm" and affine else (None, False))),
        unit_offset=draw(st.booleans()) if affine else False,
        eps=draw(sampled_from((1e-5, 1e-6, 1e-3))),
        placement=draw(sampled_from(("pre", "output", "sandwich", "post"))) if parallel == "none" else "pre",
        final=draw(st.booleans()),
    )


def _qk_norm(draw: Draw, norm: Norm) -> QkNorm | None:
    if draw(st.booleans()):
        return None
    own, affine = draw(sampled_from((None, "rmsnorm", "layernorm"))), draw(sampled_from((None, None, True, False)))
    if (own or norm.kind) == "layernorm":
        bias = draw(sampled_from((None, True, False) if (norm.affine if affine is None else affine) else (None, False)))
    else:  # rmsnorm has no bias, so a bias of the model's norm must not be inherited
        bias = False if norm.bias else draw(sampled_from((None, False)))
    return QkNorm(scope=draw(sampled_from(("head", "full", "per_head"))), kind=own, affine=affine, bias=bias)


def _windows(draw: Draw, n_layers: int, seq_len: int) -> Any:
    size = st.integers(1, seq_len + 2)
    return draw(st.none() | size | st.lists(maybe(size), min_size=1, max_size=n_layers))


def _full(draw: Draw, even: int, n_heads: int, from_keys: bool) -> FullAttention | None:
    """What layers without a window have otherwise; from_keys: whether their values may be the keys'."""
    full = FullAttention(
        n_kv_heads=draw(maybe(sampled_from([k for k in range(1, n_heads + 1) if n_heads % k == 0]))),
        head_dim=draw(maybe(st.integers(1, 8 // even).map(lambda half: even * half))),
        values_from_keys=draw(sampled_from((True, True, None, False))) if from_keys else None,
    )
    return None if full == FullAttention() else full


def _attention_and_positions(draw: Draw, norm: Norm, n_layers: int, seq_len: int) -> tuple[int, Attention, Positions]:
    """(D, attention, positions). Without an explicit head_dim, D is made to be heads * N."""
    latent = draw(sampled_from((False, False, False, True)))
    kind = "rotary" if latent else draw(sampled_from(("rotary", "rotary", "learned", "alibi", "none")))
    window = _windows(draw, n_layers, seq_len)
    even = 2 if kind == "rotary" else 1
    n_kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    n_heads = n_kv_heads * group
    fields: dict[str, Any] = dict(
        n_heads=n_heads,
        bias=draw(
            st.booleans()
            | st.builds(ProjectionBias, q=st.booleans(), k=st.booleans(), v=st.just(False) if latent else st.booleans(), o=st.booleans())
        ),
        window=window,
        chunked=draw(st.booleans()) if any(window if isinstance(window, list) else [window]) else False,
        sinks=draw(st.booleans()),
        softcap=draw(maybe(sampled_from((5.0, 50.0)))),
        scale=draw(maybe(sampled_from((0.5, 0.0625)))),
        gate=draw(sampled_from((None, None, "elementwise", "headwise"))),
    )
    if latent:
        rotated = 2 * draw(st.integers(1, 3))
        fields["latent"] = Latent(
            kv_rank=draw(st.integers(1, 12)),
            q_rank=draw(maybe(st.integers(1, 12))),
            nope_dim=draw(st.integers(1, 6)),
            rope_dim=rotated,
            v_dim=draw(st.integers(1, 8)),
        )
        d_model = draw(st.integers(8, 32))
    else:
        free = draw(st.booleans())
        least = 1 if free else max(1, 8 // n_heads // even)
        rotated = head_dim = even * draw(st.integers(least, 8 // even))
        d_model = draw(st.integers(8, 32)) if free else n_heads * head_dim
        fields["head_dim"] = head_dim if free else None
        fields["n_kv_heads"] = n_kv_heads if group > 1 else draw(sampled_from((None, n_heads)))
        fields["qk_norm"] = _qk_norm(draw, norm)
        fields["v_norm"] = draw(sampled_from((True, True, False)))
        normed = bool(fields["qk_norm"]) and fields["v_norm"]
        fields["values_from_keys"] = draw(st.booleans()) if normed else False
        w = window if isinstance(window, list) else [window]
        windows = [w[i % len(w)] for i in range(n_layers)]
        if any(windows) and not all(windows):
            fields["full"] = full = _full(draw, even, n_heads, normed)
            rotated = min(rotated, full.head_dim) if full and full.head_dim else rotated
        full = fields.get("full")
        if fields["values_from_keys"] and not (full and full.values_from_keys is False) and isinstance(fields["bias"], ProjectionBias):
            fields["bias"] = replace(fields["bias"], v=False)
    positions = _positions(draw, kind, rotated, window, n_layers, seq_len)
    from_keys = fields.get("values_from_keys") or (fields.get("full") and fields["full"].values_from_keys)
    if fields.get("qk_norm") and not from_keys and not all(positions.rotated or [True]):
        fields["qk_norm"] = replace(fields["qk_norm"], rotated_only=draw(st.booleans()))
    return d_model, Attention(**fields), positions


def _positions(draw: Draw, kind: str, rotated: int, window: Any, n_layers: int, seq_len: int) -> Positions:
    if kind == "learned":
        return Positions(kind=kind, max_len=draw(maybe(st.integers(seq_len, 20))), offset=draw(st.integers(0, 3)))
    if kind != "rotary":
        return Positions(kind=kind)
    pattern = draw(maybe(st.lists(st.booleans(), min_size=1, max_size=n_layers).filter(any)))
    w, r = window if isinstance(window, list) else [window], pattern or [True]
    rotated_windows = [w[i % len(w)] for i in range(n_layers) if r[i % len(r)]]
    fractions = [f for f in (1.0, 0.25, 0.4, 0.5, 0.75) if int(exact(f) * rotated) >= 2]
    return Positions(
        theta=draw(sampled_from((10000.0, 500000.0))),
        local_theta=draw(maybe(st.just(1000.0))) if any(rotated_windows) else None,
        rotated=pattern,
        fraction=draw(sampled_from(fractions)),
    )


def _mlp(draw: Draw, bias: bool, has_moe: bool) -> Mlp:
    kind = draw(sampled_from(("plain", "gated")))
    size: dict[str, Any] = dict(d_ff=draw(st.integers(1, 40)))
    if draw(st.booleans()):
        size = dict(ratio=draw(sampled_from((0.5, 2.0, 2.6667, 4.0))), multiple_of=draw(sampled_from((1, 4, 8))))
    activations = PLAIN_ACTIVATIONS + (("swiglu_clamped",) if kind == "gated" else ()) + (() if has_moe else ("xielu",))
    return Mlp(kind=kind, activation=draw(sampled_from(activations)), bias=bias, **size)


def _moe(draw: Draw, where: dict, seq_len: int, own_norms: bool) -> Moe:
    by_token = own_norms or draw(sampled_from((True, True, False)))
    groups = draw(sampled_from((1, 1, 2))) if by_token else 1
    n_experts = groups * draw(st.integers(1, 5 if groups == 1 else 3))
    top_groups = draw(st.integers(1, groups))
    n_noop = draw(st.integers(0, min(2, seq_len))) if groups == 1 and not own_norms else 0
    n_shared = draw(st.integers(int(own_norms), 2))
    score = draw(sampled_from(("softmax_topk", "topk_softmax", "sigmoid") if by_token else ("softmax_topk", "sigmoid")))
    fields: dict[str, Any] = dict(capacity=draw(sampled_from((0.5, 1.0, 1.25, 2.0))))
    if by_token:
        fields["top_k"] = draw(st.integers(1, n_experts // groups * top_groups + n_noop))
        fields["balance_bias"] = draw(st.booleans())
        if not n_noop and draw(st.booleans()):
            fields["capacity"] = None
    return Moe(
        n_experts=n_experts,
        choice="token" if by_token else "expert",
        d_ff=draw(maybe(st.integers(1, 16))),
        bias=draw(st.booleans()),
        n_shared=n_shared,
        shared_d_ff=draw(maybe(st.integers(1, 16))) if n_shared else None,
        shared_gate=draw(st.booleans()) if n_shared and not own_norms else False,
        own_norms=own_norms,
        n_noop=n_noop,
        score=score,
        renormalize=True if score == "topk_softmax" else draw(st.booleans()),
        scaling=draw(sampled_from((1.0, 2.5))),
        router_bias=draw(st.booleans()),
        groups=groups,
        top_groups=top_groups,
        **fields,
        **where,
    )


def _capacities(draw: Draw, n: int, seq_len: int, recursions: bool) -> tuple[Any, bool]:
    """(capacity, whether rounding has a meaning)."""
    share, count = sampled_from(SHARES), st.integers(1, seq_len)
    if recursions:  # each recursion chooses among the tokens of the one before
        whole = draw(st.booleans())
        return sorted(draw(st.lists(count if whole else share, min_size=n, max_size=n)), reverse=True), not whole
    how = draw(sampled_from(("share", "any share", "count", "list") + (("schedule",) if n > 1 else ())))
    if how == "schedule":
        return Schedule(kind=draw(sampled_from(("linear", "cosine"))), start=draw(share), end=draw(share)), True
    if how == "list":
        values = draw(st.lists(share | count, min_size=n, max_size=n))
        return values, any(isinstance(v, float) for v in values)
    if how == "count":
        return draw(count), False
    return draw(share if how == "share" else st.floats(0.001, 1.0)), True


def _mod(draw: Draw, n_layers: int, seq_len: int, parallel: str) -> Mod:
    fields: dict[str, Any] = {}
    if draw(sampled_from((False, False, True))):
        n = draw(st.integers(1, 3))
        first = draw(st.integers(0, n_layers - 1))
        layers = list(range(first, draw(st.integers(first, n_layers - 1)) + 1))
        fields = dict(recursions=n, layers=draw(sampled_from((None, layers))))
    else:
        fields = _choice_of_layers(draw, n_layers) if n_layers > 1 else dict(every=1)
        every = fields.get("every", 2)
        n = len(fields["layers"]) if "layers" in fields else len(range(fields.get("offset", every - 1), n_layers, every))
        fields["granularity"] = draw(sampled_from(("block", "attention", "mlp") if parallel == "none" else ("block",)))
        if fields["granularity"] != "mlp":
            fields["keys"] = draw(sampled_from(("kept", "kept", "all")))
    fields["capacity"], shares = _capacities(draw, n, seq_len, "recursions" in fields)
    if shares:
        fields["rounding"] = draw(sampled_from(("floor", "ceil", "nearest")))
    if draw(sampled_from((True, True, True, False))):
        width = draw(maybe(st.integers(1, 8)))
        fields |= dict(
            selection=draw(sampled_from(("topk", "threshold"))),
            predictor_width=width,
            decide=draw(sampled_from((None, "router", "predictor") if width else (None, "router"))),
            aux_loss=draw(sampled_from((0.01, 0.0, 0.1))),
            z_loss=draw(sampled_from((0.0, 0.001))),
        )
    else:
        fields["router"] = "random"
    return Mod(multiple_of=draw(st.integers(1, min(4, seq_len))), bypass=draw(maybe(st.builds(Bypass, d_ff=st.integers(1, 8)))), **fields)


def _train(draw: Draw, seq_len: int) -> Train:
    batch = draw(st.integers(1, 4))
    length = draw(sampled_from(({}, dict(steps=100), dict(tokens=batch * seq_len * 10))))
    return Train(batch_size=batch, **length)


def _limits(draw: Draw, in_bytes: bool) -> Any:
    value = draw(sampled_from((10**9, 6e18, "6e18", "80GiB" if in_bytes else "1.5B")))
    rules = (
        value,
        Limits(max=value),
        Limits(min="1KB" if in_bytes else "1K", max=value),
        Limits(equals=value, within=draw(maybe(st.just(0.01)))),
        Limits(max=draw(sampled_from((0.5, "0.6", 1))), relative_to="gpt2"),
    )
    return draw(sampled_from(rules))


def _budget(draw: Draw, train: Train | None) -> Budget:
    scheduled = train and (train.steps or train.tokens)
    names = [f.name for f in structs.fields(Budget) if scheduled or f.name != "train_flops"]
    drawn = draw(st.lists(sampled_from(names), unique=True, max_size=3))
    return Budget(**{name: _limits(draw, name.endswith("_bytes")) for name in drawn})


@st.composite
def specs(draw: Draw, *, mod: bool | None = None, moe: bool | None = None) -> Spec:
    """A small valid Spec. mod, moe: True to have the section, False to have none, None to draw whether."""
    has_mod = draw(st.booleans()) if mod is None else mod
    has_moe = draw(sampled_from((False, False, True))) if moe is None else moe
    n_layers, seq_len = draw(st.integers(1, 4)), draw(st.integers(1, 16))
    parallel = draw(sampled_from(("none", "none", "shared_norm", "two_norms")))
    norm = _norm(draw, parallel)
    own_norms = has_moe and parallel == "none" and draw(st.booleans())
    if own_norms:
        norm = structs.replace(norm, placement="sandwich")
    d_model, attention, positions = _attention_and_positions(draw, norm, n_layers, seq_len)
    routing = _mod(draw, n_layers, seq_len, parallel) if has_mod else None
    where = _choice_of_layers(draw, n_layers) if n_layers > 1 else {}
    everywhere = has_moe and (where == {} or where.get("every") == 1 and not where.get("offset") or len(where.get("layers", ())) == n_layers)
    # With experts in every layer and no bypass there is no plain MLP whose bias could be meant.
    mlp_bias = draw(st.booleans()) if not everywhere or (routing and routing.bypass) else False
    train = draw(maybe(st.just(True))) and _train(draw, seq_len)
    return Spec(
        name=draw(sampled_from(("drawn", "1e5", "on", "a: b"))),
        vocab_size=draw(st.integers(5, 40)),
        seq_len=seq_len,
        d_model=d_model,
        n_layers=n_layers,
        attention=attention,
        mlp=_mlp(draw, mlp_bias, has_moe),
        moe=_moe(draw, where, seq_len, own_norms) if has_moe else None,
        norm=norm,
        positions=positions,
        embedding=Embedding(
            norm=draw(st.booleans()), scale=draw(maybe(sampled_from((2.0, 5.65685)))), dim=draw(sampled_from((None, None, 4, d_model, 12)))
        ),
        head=Head(tied=draw(st.booleans()), bias=draw(st.booleans()), scale=draw(maybe(st.just(0.0625))), softcap=draw(maybe(st.just(30.0)))),
        parallel=parallel,
        residual_scale=draw(sampled_from((1.0, 1.0, 0.22))),
        mod=routing,
        train=train,
        budget=_budget(draw, train) if draw(sampled_from((False, False, True))) else None,
        description=draw(maybe(sampled_from(("drawn by a test", "two\nlines: and #")))),
        source=draw(maybe(st.just("a test"))),
    )

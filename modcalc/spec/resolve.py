"""Spec -> Plan: the one place where dims are derived and shares become whole tokens."""

from fractions import Fraction

from modcalc.errors import UsageError
from modcalc.spec.plan import (
    AttentionPlan,
    BlockPlan,
    Dim,
    EmbeddingPlan,
    Group,
    HeadPlan,
    LatentPlan,
    MlpPlan,
    MoePlan,
    NormPlan,
    Plan,
    RecursionPlan,
    RoutingPlan,
)
from modcalc.spec.schema import Attention, Mod, Moe, Norm, ProjectionBias, Schedule, Spec
from modcalc.units import whole_number


def exact(x: float | int) -> Fraction:
    """The decimal that the user wrote, not the float nearest to it: 0.29 * 100 must keep 29 tokens, not 28."""
    return Fraction(str(x))


def selected(n_layers: int, every: int, offset: int | None, layers: list[int] | None) -> list[int]:
    """Layer indices chosen by `layers`, or by `every` from `offset` (default every - 1) on."""
    if layers is not None:
        return sorted(layers)
    return list(range(every - 1 if offset is None else offset, n_layers, every))


def tokens_kept(capacity: float | int | Fraction, seq_len: int, rounding: str = "floor", multiple_of: int = 1) -> int:
    """C of T tokens: an integer is a count (at most T), anything else a share of T, rounded, then up to `multiple_of`, within 1..T."""
    if isinstance(capacity, int):
        count = capacity
    else:
        product = (capacity if isinstance(capacity, Fraction) else exact(capacity)) * seq_len
        floor = product.numerator // product.denominator
        count = {
            "floor": floor,
            "ceil": -(-product.numerator // product.denominator),
            "nearest": floor + (product - floor >= Fraction(1, 2)),
        }[rounding]
    return min(up(max(count, 1), multiple_of), seq_len)


def capacities(mod: Mod, n: int) -> list[float | int | Fraction]:
    """The capacity of each of the n routed blocks (or recursions), before rounding."""
    c = mod.capacity
    if isinstance(c, list):
        return list(c)
    if not isinstance(c, Schedule):
        return [c] * n
    start, end = exact(c.start), exact(c.end)
    if n == 1:
        return [start]
    if c.kind == "linear":
        return [start + (end - start) * i / (n - 1) for i in range(n)]
    from math import cos, pi

    # p-MoD's half cosine; rounded to 12 digits so that the plan is the same on every platform.
    return [end + (start - end) * Fraction(str(round((1 + cos(pi * i / (n - 1))) / 2, 12))) for i in range(n)]


def norm_plan(norm: Norm, width: Dim, *, kind: str | None = None, affine: bool | None = None, bias: bool | None = None, groups: Dim = 1) -> NormPlan:
    """A norm over `width` entries as the spec's `norm` says, but for what is given here. Without a word LayerNorm has a bias, RMSNorm none."""
    kind = kind or norm.kind
    affine = norm.affine if affine is None else affine
    if bias is None:
        bias = norm.bias
    if bias is None:
        bias = kind == "layernorm"
    return NormPlan(kind, width, affine, bias and affine, norm.eps, norm.unit_offset, groups)


def inner_width(spec: Spec) -> int:
    """F: as given, or ratio * d_model rounded up to a multiple."""
    if spec.mlp.d_ff is not None:
        return spec.mlp.d_ff
    return up(exact(spec.mlp.ratio) * spec.d_model, spec.mlp.multiple_of)


def up(width: int | Fraction, multiple: int) -> int:
    """The least multiple that is no narrower."""
    return -(-width // multiple) * multiple


def full_is_multi_head(a: Attention) -> bool:
    """Whether layers without a window are told to have as many key/value heads as heads; then they have so in every shape of a search."""
    return bool(a.full) and a.full.n_kv_heads == a.n_heads


def attention_plan(spec: Spec, *, n_heads: Dim, n_kv_heads: Dim, head_dim: Dim, window: int | None, rotated: bool) -> AttentionPlan:
    """Attention of a layer with this window (None: all tokens, where `attention.full` may say otherwise). Dims may be arrays, on a lattice."""
    a, pos = spec.attention, spec.positions
    values_from_keys = a.values_from_keys
    if window is None and a.full:
        own = n_heads if full_is_multi_head(a) else a.full.n_kv_heads  # on a lattice, heads are many numbers
        n_kv_heads, head_dim = n_kv_heads if own is None else own, a.full.head_dim or head_dim
        values_from_keys = values_from_keys if a.full.values_from_keys is None else a.full.values_from_keys
    bias = a.bias if isinstance(a.bias, ProjectionBias) else ProjectionBias(q=a.bias, k=a.bias, v=a.bias, o=a.bias)
    q_norm = k_norm = latent = None
    v_head_dim, rotary = head_dim, head_dim
    if a.latent:
        lat = a.latent
        head_dim, v_head_dim, rotary = lat.nope_dim + lat.rope_dim, lat.v_dim, lat.rope_dim
        latent = LatentPlan(
            lat.kv_rank,
            lat.q_rank,
            lat.nope_dim,
            lat.rope_dim,
            norm_plan(spec.norm, lat.kv_rank),
            norm_plan(spec.norm, lat.q_rank) if lat.q_rank else None,
        )
    rotated = rotated and pos.kind == "rotary"
    if a.qk_norm and (rotated or not a.qk_norm.rotated_only):
        scope, own = a.qk_norm.scope, dict(kind=a.qk_norm.kind, affine=a.qk_norm.affine, bias=a.qk_norm.bias)

        def qk(heads: Dim) -> NormPlan:
            width = heads * head_dim if scope == "full" else head_dim
            return norm_plan(spec.norm, width, **own, groups=heads if scope == "per_head" else 1)

        q_norm, k_norm = qk(n_heads), qk(n_kv_heads)
    v_norm = norm_plan(spec.norm, v_head_dim, affine=False) if a.v_norm else None
    if not rotated:
        rotary = 0
    elif pos.fraction != 1.0:
        rotary = int(exact(pos.fraction) * rotary) // 2 * 2
    gate = {"elementwise": v_head_dim, "headwise": 1, None: 0}[a.gate]
    theta = pos.local_theta if window is not None and pos.local_theta else pos.theta
    return AttentionPlan(
        n_heads, n_kv_heads, head_dim, v_head_dim, a.scale, bias.q, bias.k, bias.v and not values_from_keys, bias.o, q_norm, k_norm,
        v_norm, values_from_keys, window, a.chunked and window is not None, a.sinks, a.softcap, gate, rotary, theta, pos.kind == "alibi", latent,
    )  # fmt: skip


def moe_plan(spec: Spec, moe: Moe, d_model: Dim, d_ff: Dim) -> MoePlan:
    """Experts as wide as the MLP, `d_ff`, where `moe` does not say."""
    gated, act = spec.mlp.kind == "gated", spec.mlp.activation
    width = d_ff if moe.d_ff is None else moe.d_ff
    shared_width = width if moe.shared_d_ff is None else moe.shared_d_ff
    shared = MlpPlan(gated, act, moe.n_shared * shared_width, moe.bias) if moe.n_shared else None
    return MoePlan(
        moe.n_experts, moe.n_noop, moe.top_k if moe.choice == "token" else None, MlpPlan(gated, act, width, moe.bias), shared, moe.shared_gate,
        moe.choice, None if moe.capacity is None else exact(moe.capacity), moe.score, moe.renormalize, moe.scaling,
        moe.router_bias, moe.balance_bias, moe.groups, moe.top_groups, norm_plan(spec.norm, d_model) if moe.own_norms else None,
    )  # fmt: skip


def routing_plan(spec: Spec, capacity: float | int | Fraction, seq_len: int, within: int | None = None) -> RoutingPlan:
    """Routing that keeps `capacity` of `seq_len` tokens; a recursion chooses `within` the tokens that the one before kept."""
    mod = spec.mod
    kept = tokens_kept(capacity, seq_len, mod.rounding, mod.multiple_of)
    if within is not None:
        kept = min(kept, within)
    return RoutingPlan(
        kept, Fraction(kept, seq_len), mod.router, mod.selection, mod.granularity, mod.keys, mod.predictor_width,
        mod.decide or ("predictor" if mod.predictor_width else "router"),
        MlpPlan(spec.mlp.kind == "gated", spec.mlp.activation, mod.bypass.d_ff, spec.mlp.bias) if mod.bypass else None,
        mod.aux_loss, mod.z_loss,
    )  # fmt: skip


def block_plan(
    spec: Spec,
    *,
    d_model: Dim,
    n_heads: Dim,
    n_kv_heads: Dim,
    head_dim: Dim,
    d_ff: Dim,
    window: int | None,
    rotated: bool,
    experts: bool,
    routing: RoutingPlan | None,
) -> BlockPlan:
    """One block. experts: in place of its MLP."""
    attention = attention_plan(spec, n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=head_dim, window=window, rotated=rotated)
    ffn = moe_plan(spec, spec.moe, d_model, d_ff) if experts else MlpPlan(spec.mlp.kind == "gated", spec.mlp.activation, d_ff, spec.mlp.bias)
    return BlockPlan(d_model, attention, ffn, norm_plan(spec.norm, d_model), spec.norm.placement, spec.parallel, spec.residual_scale, routing)


def heads(spec: Spec) -> tuple[int, int, int]:
    """H, K, N of a spec."""
    a = spec.attention
    return a.n_heads, a.n_kv_heads or a.n_heads, a.head_dim or spec.d_model // a.n_heads


def by_layer(spec: Spec) -> list[tuple[int | None, bool]]:
    """(attention window, whether positions are rotated) of each layer: both are patterns that repeat."""
    w, r = spec.attention.window, spec.positions.rotated or [True]
    w = w if isinstance(w, list) else [w]
    return [(w[i % len(w)], r[i % len(r)]) for i in range(spec.n_layers)]


def expert_layers(spec: Spec) -> list[int]:
    """The layers that have experts."""
    moe = spec.moe
    return selected(spec.n_layers, moe.every, moe.offset, moe.layers) if moe else []


def mlp_layers(spec: Spec) -> int:
    """How many layers have an MLP of their own in place of experts."""
    return spec.n_layers - len(set(expert_layers(spec)))


def inner_widths(spec: Spec) -> tuple[int | None, int | None]:
    """(d_ff, None where no layer uses it; that of experts, None where there are none or they have no width of their own)."""
    expert = spec.moe.d_ff if spec.moe else None
    return inner_width(spec) if mlp_layers(spec) or expert is None else None, expert


def recursion_plan(spec: Spec, seq_len: int) -> RecursionPlan | None:
    """The recursions of a spec that has them, each choosing among the tokens that the one before kept."""
    mod = spec.mod
    if not (mod and mod.recursions):
        return None
    routings: list[RoutingPlan] = []
    for capacity in capacities(mod, mod.recursions):
        routings.append(routing_plan(spec, capacity, seq_len, routings[-1].capacity if routings else None))
    layers = mod.layers or range(spec.n_layers)
    return RecursionPlan(min(layers), max(layers), tuple(routings))


def learned_length(spec: Spec) -> int | None:
    """The longest sequence that learned positions allow; None: any."""
    return (spec.positions.max_len or spec.seq_len) if spec.positions.kind == "learned" else None


def position_rows(spec: Spec) -> int:
    """Rows of the table of learned positions; 0: there is none."""
    length = learned_length(spec)
    return 0 if length is None else length + spec.positions.offset


def frame(spec: Spec, d_model: Dim, seq_len: int) -> dict:
    """The parts of a Plan that are not blocks."""
    max_len = learned_length(spec)
    return dict(
        name=spec.name,
        seq_len=seq_len,
        max_len=max_len,
        d_model=d_model,
        embedding=EmbeddingPlan(
            spec.vocab_size,
            spec.embedding.dim or d_model,
            position_rows(spec),
            0 if max_len is None else spec.positions.offset,
            norm_plan(spec.norm, d_model) if spec.embedding.norm else None,
            spec.embedding.scale,
        ),
        final_norm=norm_plan(spec.norm, d_model) if spec.norm.final else None,
        head=HeadPlan(spec.head.tied, spec.head.bias, spec.head.scale, spec.head.softcap),
    )


def demand_spec(spec: object) -> None:
    """Raises UsageError for what is no Spec, with what makes one."""
    if isinstance(spec, Plan):
        raise UsageError(f"{spec.name}: a Plan, which is resolved already; give the Spec that it was made from")
    if not isinstance(spec, Spec):
        raise UsageError(f"{spec!r:.100} is no Spec: modcalc.load makes one from a file, a shipped name or a config.json")


def resolve(spec: Spec, seq_len: int | None = None) -> Plan:
    """The Plan of `spec` for sequences of `seq_len` tokens (default spec.seq_len).

    Raises UsageError if `spec` is none, seq_len is not positive or longer than the learned positions, and if heads do not divide.
    """
    demand_spec(spec)
    T = spec.seq_len if seq_len is None else whole_number(seq_len, "seq_len")
    if T < 1:
        raise UsageError(f"sequence length {T}: at least 1 token is needed")
    H, K, N = heads(spec)
    # What is loaded keeps this rule already; a Spec changed in Python may not.
    full = spec.attention.full
    if full and full.n_kv_heads and H % full.n_kv_heads:
        raise UsageError(f"{spec.name}: {full.n_kv_heads} must divide {H} heads")
    if H % K or not (spec.attention.head_dim or spec.attention.latent or spec.d_model % H == 0):
        raise UsageError(f"{spec.name}: {K} must divide {H} heads, and these d_model {spec.d_model} unless attention.head_dim is given")
    F = inner_width(spec)
    recursion = recursion_plan(spec, T)
    routings: dict[int, RoutingPlan] = {}
    if spec.mod and not recursion:
        chosen = selected(spec.n_layers, spec.mod.every, spec.mod.offset, spec.mod.layers)
        # By type as well: 1 is one token, 1.0 all of them.
        keys = [(type(c), c) for c in capacities(spec.mod, len(chosen))]
        by_capacity = {key: routing_plan(spec, key[1], T) for key in set(keys)}
        routings = {i: by_capacity[key] for i, key in zip(chosen, keys, strict=True)}
    experts = set(expert_layers(spec))

    alike: dict[tuple, list[int]] = {}
    for i, (window, rotated) in enumerate(by_layer(spec)):
        routing = routings.get(i)
        alike.setdefault((window, rotated, i in experts, routing and routing.capacity), []).append(i)
    groups = tuple(
        Group(
            block_plan(
                spec, d_model=spec.d_model, n_heads=H, n_kv_heads=K, head_dim=N, d_ff=F,
                window=window, rotated=rotated, experts=moe, routing=routings.get(layers[0]),
            ),
            len(layers),
            tuple(layers),
        )
        for (window, rotated, moe, _), layers in alike.items()
    )  # fmt: skip
    plan = Plan(n_layers=spec.n_layers, groups=groups, recursion=recursion, **frame(spec, spec.d_model, T))
    plan.demand_room(T)
    return plan

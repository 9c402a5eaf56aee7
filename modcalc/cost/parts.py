"""Rows of a block's parts: attention, MLP, experts. Paths are those of modcalc.models."""

from fractions import Fraction

from modcalc.cost.ops import AttentionCore, Experts, Op, ratio, whole
from modcalc.cost.place import At, equal, nonzero
from modcalc.spec.plan import AttentionPlan, Dim, MlpPlan, MoePlan, NormPlan, least


def attention_rows(a: AttentionPlan, D: Dim, at: At, keys: At) -> list[Op]:
    """q, k, v projections (or the latent ones), norms, rotary, scores and values, gates, output projection.

    at: where the queries are; keys: where the tokens that bring keys are, the same place or all tokens of a routed block.
    Latent attention at decode is billed in its absorbed form (DeepSeek-V2, arXiv 2405.04434, section 2.1.2 and
    appendix C): queries move into the latent space, so cached latents are never expanded. A prefill expands them, once for
    all of its queries.
    """
    H, K, N, Nv = a.n_heads, a.n_kv_heads, a.head_dim, a.v_head_dim
    proj = "attention"
    decode = at.work.phase == "decode"
    # A window's cache never holds more keys than a query may see beside itself.
    cached = at.cached if a.window is None or not at.work.sampling else least(at.cached, a.window - 1)
    apart = keys is not at
    rows = _latent_projections(a, D, at, keys, cached) if a.latent else _projections(a, D, at, keys)
    core = dict(d_model=D, softcap=a.softcap is not None, n_heads=H, n_kv_heads=K, head_dim=N, v_head_dim=Nv, part=a)
    if a.latent and decode:
        core |= dict(n_kv_heads=1, head_dim=a.latent.kv_rank + a.latent.rope_dim, v_head_dim=a.latent.kv_rank, absorbed=True)
    rotated = 1 if a.latent else K
    values = "attn.k_proj" if a.values_from_keys else "attn.v_proj"
    norms = (
        (at, "attn.q_norm", "attn.q_proj", a.q_norm, H, N),
        (keys, "attn.k_norm", "attn.k_proj", a.k_norm, K, N),
        (keys, "attn.v_norm", values, a.v_norm, K, Nv),
    )
    for where, name, of, norm, n, width in norms:
        if norm:
            rows.append(where.of(of).norm(name, norm, vectors=_vectors(norm, n, width)))
    if nonzero(a.rotary_dim):
        turned = ((at, H), (keys, rotated)) if apart else ((at, H + rotated),)
        rows += [where.point("attn", proj, "rotary", n * a.rotary_dim, part=a, reads=where.positions) for where, n in turned]
    context = cached + (1 if decode else keys.tokens)
    scores = at.common("attn.core", "scores", reads=at.positions)
    begun = least(cached, at.work.context % a.window) if a.chunked else None
    core |= dict(among=keys.tokens if apart else None, window=a.window, begun=begun)
    rows.append(AttentionCore(context=context, sinks=a.sinks, decode=decode, **core, **scores))
    rows.append(at.point("attn.core", "scores", "softmax", H * context))
    if a.softcap:
        rows.append(at.point("attn.core", "scores", "softcap", H * context))
    gated = nonzero(a.gate)
    if gated:
        rows.append(at.linear("attn.gate_proj", proj, D, H * a.gate))
        rows.append(at.of("attn.core").point("attn", proj, "gate", H * Nv, part=a))
    rows.append(at.of("attn" if gated else "attn.core").linear("attn.o_proj", proj, H * Nv, D, a.o_bias))
    return rows


def _projections(a: AttentionPlan, D: Dim, at: At, keys: At) -> list[Op]:
    """To queries, keys and values."""
    rows: list[Op] = [
        at.linear("attn.q_proj", "attention", D, a.n_heads * a.head_dim, a.q_bias),
        keys.linear("attn.k_proj", "attention", D, a.n_kv_heads * a.head_dim, a.k_bias),
    ]
    if not a.values_from_keys:
        rows.append(keys.linear("attn.v_proj", "attention", D, a.n_kv_heads * a.v_head_dim, a.v_bias))
    return rows


def _latent_projections(a: AttentionPlan, D: Dim, at: At, keys: At, cached: Dim) -> list[Op]:
    """To queries, to latents, and from latents, those of `cached` tokens as well, to keys and values."""
    lat, H = a.latent, a.n_heads
    if lat.q_rank is not None:
        rows: list[Op] = [
            at.linear("attn.q_down", "attention", D, lat.q_rank, a.q_bias),
            at.of("attn.q_down").norm("attn.q_down_norm", lat.q_norm),
            at.of("attn.q_down_norm").linear("attn.q_up", "attention", lat.q_rank, H * a.head_dim),
        ]
    else:
        rows = [at.linear("attn.q_proj", "attention", D, H * a.head_dim, a.q_bias)]
    rows.append(keys.linear("attn.kv_down", "attention", D, lat.kv_rank + lat.rope_dim, a.k_bias))
    rows.append(keys.of("attn.kv_down").norm("attn.kv_down_norm", lat.kv_norm, beside=lat.rope_dim))
    # Absorbed or not, a new token multiplies once with the whole of kv_up; where less than one is expected, so are fewer expansions.
    decode, some = at.work.phase == "decode", least(at.tokens, 1)
    new = at.tokens if decode or keys is at else keys.tokens * some
    over = dict(tokens=new if decode else new + cached * some, active=keys.active)
    rows.append(at.of("attn.kv_down_norm").linear("attn.kv_up", "attention", lat.kv_rank, H * (lat.nope_dim + a.v_head_dim), **over))
    return rows


def _vectors(norm: NormPlan, heads: Dim, head_dim: Dim) -> Dim:
    """How often a q, k or v norm runs per token: once over all heads, or once a head."""
    return heads if equal(norm.width, head_dim) else 1


def mlp_rows(m: MlpPlan, D: Dim, at: At, name: str, component: str) -> list[Op]:
    """down(act(up x)), or with a gate."""
    names = ("gate_proj", "up_proj") if m.gated else ("up_proj",)
    rows: list[Op] = [at.linear(f"{name}.{n}", component, D, m.d_ff, m.bias) for n in names]
    rows.append(at.point(name, component, "activation", m.d_ff, part=m))
    rows.append(at.of(name).linear(f"{name}.down_proj", component, m.d_ff, D, m.bias))
    return rows


def moe_rows(m: MoePlan, D: Dim, at: At, stream: At) -> list[Op]:
    """Router over E + noop outputs, the experts' projections, and the shared experts as one MLP.

    at: behind the norm, stream: before it, which router and routed experts read where they have norms of their own.
    Without a buffer every one of the t * top_k assignments is computed; with no-op experts that number is random, and
    at sampling its expectation under even use is billed, or as many and as few as there can be where routing is `all` or `none`. Experts
    that choose take at sampling the share that they choose of a whole sequence.
    """
    E, outputs, slots = m.n_experts, m.n_experts + m.n_noop, m.slots(at.all)
    share = ratio(slots, at.all) if m.choice == "expert" else Fraction(m.top_k, outputs)
    if slots is not None and not at.work.sampling:
        assigned = E * slots
    elif m.choice == "expert":
        assigned = whole(at.tokens * share * E)
    else:
        computed = {"expected": Fraction(m.top_k * E, outputs), "all": min(m.top_k, E), "none": max(m.top_k - m.n_noop, 0)}
        assigned = whole(at.tokens * computed[at.work.routing if at.work.sampling else "expected"])
    over = dict(tokens=assigned, active=at.active * share, part=m)
    rows: list[Op] = []
    router = at
    if m.own_norm:
        rows += [stream.norm(name, m.own_norm) for name in ("moe.router_norm", "moe.experts_norm")]
        router = at.of("moe.router_norm")
    rows.append(router.linear("moe.router", "expert router", D, outputs, m.router_bias, precise=True))
    rows.append(at.point("moe.router", "expert router", "select", outputs, part=m))

    def experts(n: str, reads: str, d_in: Dim, d_out: Dim) -> Experts:
        read = at.common(f"moe.experts.{n}", "experts", reads=at.name(reads), **over)
        return Experts(n_experts=E, d_in=d_in, d_out=d_out, bias=m.expert.bias, **read)

    F = m.expert.d_ff
    rows += [experts(n, "moe.sorted", D, F) for n in (("gate_proj", "up_proj") if m.expert.gated else ("up_proj",))]
    rows.append(at.point("moe.experts", "experts", "activation", F, tokens=assigned, part=m))
    rows.append(experts("down_proj", "moe.experts", F, D))
    moved = assigned if m.choice == "expert" else at.tokens * m.top_k
    rows.append(at.point("moe", "experts", "scatter", D, tokens=moved, part=m))
    if m.shared:
        rows += mlp_rows(m.shared, D, at, "moe.shared", "shared experts")
    if m.own_norm:
        # Behind what the module does most of the time, under whose component a profile shows its own time.
        rows.append(at.point("moe", "expert router", "factors", m.top_k, part=m, active=at.active * share))
        outs = (("moe.experts_out_norm", "moe.routed"), ("moe.shared_out_norm", "moe.shared.down_proj"))
        rows += [at.of(reads).norm(name, m.own_norm) for name, reads in outs]
    if m.shared_gate:
        rows.append(at.linear("moe.shared_gate", "shared experts", D, 1))
        rows.append(at.of("moe.shared.down_proj").point("moe.shared", "shared experts", "gate", D))
    return rows

"""Plan + Workload -> rows. Paths are those of modcalc.models; a test holds both together.

A routed block's rows are the dense block's rows with C tokens in place of T, and a router beside them.
"""

from dataclasses import dataclass, replace
from fractions import Fraction

from modcalc.cost.ops import AttentionCore, Experts, Linear, Lookup, NormOp, Op, Pointwise, whole
from modcalc.errors import UsageError
from modcalc.spec.plan import AttentionPlan, BlockPlan, Dim, MlpPlan, MoePlan, NormPlan, Plan, RoutingPlan, least

PHASES = ("forward", "train", "prefill", "decode")
ROUTING = ("expected", "all", "none")


@dataclass(frozen=True, slots=True)
class Workload:
    """What is computed. batch: sequences B. seq_len: new tokens T of each (1 for decode). context: tokens already cached.

    forward and train see whole sequences with top-k routing. prefill and decode route causally, each token by its own
    router, so a routed block's cost is a random number: `routing` says whether its expectation, its worst case (all
    tokens routed) or its best (none) is billed. Prefill computes logits for the last token only.
    """

    batch: int = 1
    seq_len: int = 1
    context: int = 0
    phase: str = "forward"
    routing: str = "expected"

    @property
    def sampling(self) -> bool:
        return self.phase in ("prefill", "decode")

    @property
    def tokens(self) -> int:
        """New tokens in all sequences."""
        return self.batch * self.seq_len

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise UsageError(f"phase {self.phase!r}: one of {', '.join(PHASES)}")
        if self.routing not in ROUTING:
            raise UsageError(f"routing {self.routing!r}: one of {', '.join(ROUTING)}")
        if self.batch < 1 or self.seq_len < 1 or self.context < 0:
            found = f"batch {self.batch}, seq_len {self.seq_len}, context {self.context}"
            raise UsageError(f"{found}: batch and seq_len are at least 1, context at least 0")
        if self.context and not self.sampling:
            raise UsageError(f"context {self.context}: only the phases prefill and decode attend to cached tokens")
        if self.phase == "decode" and self.seq_len != 1:
            raise UsageError(f"seq_len {self.seq_len}: decode computes 1 new token per sequence; its history is the context")


@dataclass(frozen=True, slots=True)
class _At:
    """Where rows are written: workload, path prefix, layers, the tokens that pass here, and the tensors that they stand in."""

    work: Workload
    prefix: str
    tokens: Dim  # new tokens of a sequence that pass
    cached: Dim  # cached tokens of a sequence that they see
    repeat: Dim = 1
    layers: tuple[int, ...] = ()
    own: bool = True
    active: object = 1
    scope: str = ""
    x: str = ""  # the tensor that comes in
    positions: str = "positions"  # those of the whole sequence, or of kept tokens

    def name(self, of: str) -> str:
        """A module's path, or a tensor's name."""
        return f"{self.prefix}.{of}" if of and self.prefix else of or self.prefix

    def common(self, name: str, component: str, **over: object) -> dict:
        fields = dict(batch=self.work.batch, length=self.work.seq_len, tokens=self.tokens, repeat=self.repeat, layers=self.layers)
        fields |= dict(own=self.own, active=self.active, scope=self.scope, reads=self.x)
        return dict(path=self.name(name), component=component, **{**fields, **over})

    def linear(self, name: str, component: str, d_in: Dim, d_out: Dim, bias: bool = False, tied: bool = False, **over: object) -> Linear:
        return Linear(d_in=d_in, d_out=d_out, bias=bias, tied=tied, **self.common(name, component, **over))

    def norm(self, name: str, n: NormPlan, vectors: Dim = 1, **over: object) -> NormOp:
        affine = dict(weight=n.weight, bias=n.bias, groups=n.groups, part=n)
        return NormOp(norm=n.kind, width=n.width, vectors=vectors, **affine, **self.common(name, "norm", **over))

    def point(self, name: str, component: str, what: str, size: Dim, **over: object) -> Pointwise:
        return Pointwise(what=what, size=size, **self.common(name, component, **over))

    def with_tokens(self, tokens: Dim, cached: Dim, active: object) -> "_At":
        return replace(self, tokens=tokens, cached=cached, active=active)

    def of(self, x: str) -> "_At":
        """The same place, reading the tensor `x` of this prefix."""
        return replace(self, x=self.name(x))


def attention_rows(a: AttentionPlan, D: Dim, at: _At) -> list[Op]:
    """q, k, v projections (or the latent ones), norms, rotary, scores and values, output projection.

    Latent attention at decode is billed in its absorbed form (DeepSeek-V2, arXiv 2405.04434, section 2.1.2 and
    appendix C): queries move into the latent space, so cached latents are never expanded.
    """
    H, K, N, Nv = a.n_heads, a.n_kv_heads, a.head_dim, a.v_head_dim
    proj = "attention"
    rows: list[Op] = []
    absorbed = a.latent is not None and at.work.phase == "decode"
    core = dict(d_model=D, softcap=a.softcap is not None, n_heads=H, n_kv_heads=K, head_dim=N, v_head_dim=Nv, part=a)
    if a.latent:
        lat = a.latent
        if lat.q_rank is not None:
            rows += [
                at.linear("attn.q_down", proj, D, lat.q_rank, a.q_bias),
                at.of("attn.q_down").norm("attn.q_down_norm", lat.q_norm),
                at.of("attn.q_down_norm").linear("attn.q_up", proj, lat.q_rank, H * N),
            ]
        else:
            rows.append(at.linear("attn.q_proj", proj, D, H * N, a.q_bias))
        rows.append(at.linear("attn.kv_down", proj, D, lat.kv_rank + lat.rope_dim, a.k_bias))
        rows.append(at.of("attn.kv_down").norm("attn.kv_down_norm", lat.kv_norm, beside=lat.rope_dim))
        # Absorbed or not, a new token multiplies once with the whole of kv_up.
        rows.append(at.of("attn.kv_down_norm").linear("attn.kv_up", proj, lat.kv_rank, H * (lat.nope_dim + Nv)))
        if absorbed:
            core |= dict(n_kv_heads=1, head_dim=lat.kv_rank + lat.rope_dim, v_head_dim=lat.kv_rank, absorbed=True)
        rotated = H + 1
    else:
        rows += [
            at.linear("attn.q_proj", proj, D, H * N, a.q_bias),
            at.linear("attn.k_proj", proj, D, K * N, a.k_bias),
            at.linear("attn.v_proj", proj, D, K * Nv, a.v_bias),
        ]
        rotated = H + K
    for name, of, norm, n in (("attn.q_norm", "attn.q_proj", a.q_norm, H), ("attn.k_norm", "attn.k_proj", a.k_norm, K)):
        if norm:
            rows.append(at.of(of).norm(name, norm, vectors=_vectors(norm, n, N)))
    if _nonzero(a.rotary_dim):
        rows.append(at.point("attn", proj, "rotary", rotated * a.rotary_dim, part=a, reads=at.positions))
    decode = at.work.phase == "decode"
    # A window's cache never holds more keys than a query may see beside itself.
    cached = at.cached if a.window is None or not at.work.sampling else least(at.cached, a.window - 1)
    context = cached + (1 if decode else at.tokens)
    scores = at.common("attn.core", "scores", reads=at.positions)
    rows.append(AttentionCore(context=context, window=a.window, sinks=a.sinks, decode=decode, **core, **scores))
    rows.append(at.point("attn.core", "scores", "softmax", H * context))
    if a.softcap:
        rows.append(at.point("attn.core", "scores", "softcap", H * context))
    rows.append(at.of("attn.core").linear("attn.o_proj", proj, H * Nv, D, a.o_bias))
    return rows


def _vectors(norm: NormPlan, heads: Dim, head_dim: Dim) -> Dim:
    """How often a q or k norm runs per token: once over all heads, or once a head."""
    return heads if norm.width is head_dim or _equal(norm.width, head_dim) else 1


def _equal(a: Dim, b: Dim) -> bool:
    return isinstance(a, int) and isinstance(b, int) and a == b


def _nonzero(x: Dim) -> bool:
    return not isinstance(x, int) or x > 0


def mlp_rows(m: MlpPlan, D: Dim, at: _At, name: str, component: str) -> list[Op]:
    """down(act(up x)), or with a gate."""
    names = ("gate_proj", "up_proj") if m.gated else ("up_proj",)
    rows: list[Op] = [at.linear(f"{name}.{n}", component, D, m.d_ff, m.bias) for n in names]
    rows.append(at.point(name, component, "activation", m.d_ff, part=m))
    rows.append(at.of(name).linear(f"{name}.down_proj", component, m.d_ff, D, m.bias))
    return rows


def moe_rows(m: MoePlan, D: Dim, at: _At) -> list[Op]:
    """Router over E + noop outputs, the experts' projections, and the shared experts as one MLP.

    Without a buffer every one of the t * top_k assignments is computed; with no-op experts that number is random, and
    at sampling its expectation under even use is billed.
    """
    E, outputs = m.n_experts, m.n_experts + m.n_noop
    slots = None if at.work.sampling else m.slots(at.tokens) if _nonzero(at.tokens) else 0
    if slots is not None:
        assigned = E * slots
    elif m.choice == "expert":
        assigned = whole(m.capacity * at.tokens * Fraction(E, outputs))
    else:
        assigned = whole(at.tokens * m.top_k * (Fraction(E, outputs) if m.n_noop else 1))
    share = m.capacity / outputs if m.choice == "expert" else Fraction(m.top_k, outputs)
    over = dict(tokens=assigned, active=at.active * min(share, Fraction(1)), part=m)
    rows: list[Op] = [at.linear("moe.router", "expert router", D, outputs, m.router_bias, precise=True)]
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
    return rows


def routing_rows(r: RoutingPlan, b: BlockPlan, at: _At, kept: Dim, name: str = "") -> list[Op]:
    """Router, predictor, selection, gather, scatter and the way around; `at` sees all tokens, `kept` of them pass."""
    D = b.d_model
    dot = f"{name}." if name else ""
    rows: list[Op] = []
    if r.router == "learned":
        rows.append(at.linear(f"{dot}router", "router", D, 1, precise=True))
    if r.predictor_width is not None:
        rows.append(at.linear(f"{dot}predictor.up_proj", "predictor", D, r.predictor_width, True, input_grad=False))
        rows.append(at.point(f"{dot}predictor", "predictor", "activation", r.predictor_width))
        rows.append(at.of(f"{dot}predictor").linear(f"{dot}predictor.down_proj", "predictor", r.predictor_width, 1, True))
    rows.append(at.point(f"{dot}select", "router", "select", 1, part=r))
    rows.append(at.point(f"{dot}gather", "router", "gather", D, tokens=kept, part=r))
    rows.append(at.point(f"{dot}scatter", "router", "scatter", D, tokens=kept, part=r, reads=at.name("kept")))
    if r.bypass:
        # Above a threshold there may be no token at all: in static shapes the way around has room for all.
        around = at.tokens if r.selection == "threshold" and not at.work.sampling else at.tokens - kept
        side = at.with_tokens(around, 0, 1 - r.share)
        if r.selection == "threshold":
            rows.append(at.of("anew").point(f"{dot}gather", "router", "gather", D, tokens=kept))
        else:
            side = side.of("rest")
            rows += [side.point(f"{dot}{what}", "router", what, D) for what in ("gather", "scatter")]
        rows.append(side.norm(f"{dot}bypass_norm", b.norm))
        rows += mlp_rows(r.bypass, D, side.of(f"{dot}bypass_norm"), f"{dot}bypass", "bypass")
    return rows


def block_rows(b: BlockPlan, at: _At, routing: RoutingPlan | None = None) -> list[Op]:
    """Rows of one block (standing for `at.repeat` equal ones); `routing` defaults to the block's own."""
    r = routing or b.routing
    rows: list[Op] = []
    attn, ffn = at.of("x"), at.of("x" if b.parallel != "none" else "x1")
    if r:
        kept, seen = routed_tokens(r, at)
        rows += routing_rows(r, b, ffn if r.granularity == "mlp" else attn, kept)
        inner = replace(at.with_tokens(kept, seen, r.share), positions=at.name("positions")).of("kept")
        if r.granularity in ("block", "attention"):
            attn = inner
        if r.granularity == "mlp":
            ffn = inner
        elif r.granularity == "block":
            ffn = inner if b.parallel != "none" else inner.of("x1")
    D = b.d_model
    experts = isinstance(b.ffn, MoePlan)
    comes_in = {"attn_norm": attn, "mlp_norm": ffn, "attn_out_norm": attn.of("attn.o_proj")}
    comes_in["mlp_out_norm"] = ffn.of("moe" if experts else "mlp.down_proj")
    if b.placement == "post":
        comes_in |= {"attn_norm": attn.of("attn_sum"), "mlp_norm": ffn.of("mlp_sum")}
    rows += [comes_in[name].norm(name, b.norm) for name in b.norm_names]
    if b.placement in ("pre", "sandwich"):
        attn, ffn = attn.of("attn_norm"), ffn.of("attn_norm" if b.parallel == "shared_norm" else "mlp_norm")
    rows += attention_rows(b.attention, D, attn)
    rows.append(attn.point("", "residual", "residual", D))
    rows += moe_rows(b.ffn, D, ffn) if experts else mlp_rows(b.ffn, D, ffn, "mlp", "mlp")
    rows.append(ffn.point("", "residual", "residual", D))
    return rows


def routed_tokens(r: RoutingPlan, at: _At) -> tuple[Dim, Dim]:
    """(new tokens that pass, cached tokens that they see) in a routed block."""
    if not at.work.sampling:
        return r.capacity, 0
    share = {"expected": r.share, "all": Fraction(1), "none": Fraction(0)}[at.work.routing]
    seen = share if r.granularity != "mlp" else Fraction(1)
    return whole(share * at.tokens), whole(seen * at.cached)


def ledger(plan: Plan, work: Workload) -> list[Op]:
    """Every row of `plan` under `work`, embedding first, head last.

    Raises UsageError where the workload is longer than learned positions, or of another length than the plan (whole
    sequences: a plan's capacities belong to its seq_len).
    """
    length = work.context + work.seq_len
    if plan.max_len is not None and length > plan.max_len:
        raise UsageError(f"{plan.name}: {length} tokens are more than its {plan.max_len} learned positions")
    if not work.sampling and work.seq_len != plan.seq_len:
        raise UsageError(f"{plan.name}: the plan is for {plan.seq_len} tokens, the workload for {work.seq_len}")
    e, D = plan.embedding, plan.d_model
    at = _At(work, "", work.seq_len, work.context, x="x")
    rows: list[Op] = [Lookup(rows=e.vocab_size, width=e.width, tied=plan.head.tied, **at.common("embedding.tokens", "embedding"))]
    if _nonzero(e.position_rows):
        rows.append(Lookup(rows=e.position_rows, width=D, tied=plan.head.tied, **at.common("embedding.positions", "positions")))
        rows.append(at.point("embedding", "embedding", "residual", D))
    narrow = not _equal(e.width, D) and e.width is not D
    if narrow:
        rows.append(at.of("embedding.tokens").linear("embedding.project", "embedding", e.width, D))
    if e.norm:
        rows.append(at.of("embedding").norm("embedding.norm", e.norm))

    if plan.recursion:
        rows += recursion_rows(plan, at)
    else:
        for g in plan.groups:
            rows += block_rows(g.block, _At(work, "blocks.{}", at.tokens, at.cached, g.count, g.layers))

    last = at.with_tokens(1 if work.phase == "prefill" else at.tokens, 0, 1)
    if plan.final_norm:
        rows.append(last.norm("final_norm", plan.final_norm))
        last = last.of("final_norm")
    if narrow:
        rows.append(last.linear("head_proj", "head", D, e.width))
        last = last.of("head_proj")
    rows.append(last.linear("head", "head", e.width, e.vocab_size, plan.head.bias, tied=plan.head.tied))
    if plan.head.softcap:
        rows.append(last.point("head", "head", "softcap", e.vocab_size))
    return rows


def recursion_rows(plan: Plan, at: _At) -> list[Op]:
    """Blocks before, the shared stack once per recursion with fewer tokens each time, blocks after."""
    rec = plan.recursion
    rows: list[Op] = []
    for g in plan.groups:
        outside = tuple(i for i in g.layers if not rec.first <= i <= rec.last)
        if outside:
            rows += block_rows(g.block, _At(at.work, "blocks.{}", at.tokens, at.cached, len(outside), outside))
    tokens, cached, D = at.tokens, at.cached, plan.d_model
    for step, r in enumerate(rec.routings):
        name = f"recursions.{step}"
        here = _At(at.work, name, tokens, cached, x=f"{name}.x", positions=f"{name}.positions")
        kept, seen = routed_tokens(r, at)
        rows += routing_rows(r, plan.groups[0].block, here, kept)
        rows.append(Pointwise(what="residual", size=D, **here.common("", "residual", tokens=kept)))
        for g in plan.groups:
            inside = tuple(i for i in g.layers if rec.first <= i <= rec.last)
            if inside:
                inner = replace(here, prefix="blocks.{}", repeat=len(inside), layers=inside, own=step == 0, scope=name)
                rows += block_rows(g.block, inner.with_tokens(kept, seen, r.share))
        tokens, cached = kept, seen
    return rows

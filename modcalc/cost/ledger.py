"""Plan + Workload -> rows. Paths are those of modcalc.models; a test holds both together.

A routed block's rows are the dense block's rows with C tokens in place of T, and a router beside them; those of keys and values have T
where all tokens bring some.
"""

from fractions import Fraction

from msgspec.structs import replace

from modcalc.cost.ops import Lookup, Op, whole
from modcalc.cost.parts import attention_rows, mlp_rows, moe_rows
from modcalc.cost.place import At, equal, nonzero
from modcalc.cost.workload import Workload
from modcalc.errors import UsageError
from modcalc.spec.plan import BlockPlan, Dim, MoePlan, Plan, RoutingPlan


def routing_rows(r: RoutingPlan, b: BlockPlan, at: At, kept: Dim) -> list[Op]:
    """Router, predictor, selection, gather, scatter and the way around; `at` sees all tokens, `kept` of them pass."""
    D = b.d_model
    rows: list[Op] = []
    if r.router == "learned":
        rows.append(at.linear("router", "router", D, 1, precise=True))
    if r.predictor_width is not None:
        # Where the router decides, sampling has no use for it.
        asked = at if not at.work.sampling or r.decide == "predictor" else at.with_tokens(0, at.active)
        rows.append(asked.linear("predictor.up_proj", "predictor", D, r.predictor_width, True, input_grad=False))
        rows.append(asked.point("predictor", "predictor", "activation", r.predictor_width))
        rows.append(asked.of("predictor").linear("predictor.down_proj", "predictor", r.predictor_width, 1, True))
    rows.append(at.point("select", "router", "select", 1, part=r))
    rows.append(at.point("gather", "router", "gather", D, tokens=kept, part=r))
    rows.append(at.point("scatter", "router", "scatter", D, tokens=kept, part=r, reads=at.name("kept")))
    if r.bypass:
        # Above a threshold there may be no token at all: in static shapes the way around has room for all.
        around = at.tokens if r.selection == "threshold" and not at.work.sampling else at.tokens - kept
        side = at.with_tokens(around, at.active - r.share)
        if r.selection == "threshold":
            rows.append(at.of("anew").point("gather", "router", "gather", D, tokens=kept))
        else:
            side = side.of("rest")
            rows += [side.point(what, "router", what, D) for what in ("gather", "scatter")]
        rows.append(side.norm("bypass_norm", b.norm))
        rows += mlp_rows(r.bypass, D, side.of("bypass_norm"), "bypass", "bypass")
    return rows


def block_rows(b: BlockPlan, at: At) -> list[Op]:
    """Rows of one block (standing for `at.repeat` equal ones)."""
    r = b.routing
    rows: list[Op] = []
    attn, ffn = at.of("x"), at.of("x" if b.parallel != "none" else "x1")
    keys: At | None = None  # where all tokens bring keys to those that pass
    if r:
        kept, seen = routed_tokens(r, at)
        rows += routing_rows(r, b, ffn if r.granularity == "mlp" else attn, kept)
        inner = replace(at.kept(r, kept, seen), positions=at.name("positions")).of("kept")
        if r.granularity in ("block", "attention"):
            keys = attn if r.all_keys else None
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
    stream = ffn
    if keys and b.norms_first:
        # What keys are made of; the queries' tokens are normed once more.
        rows.append(keys.norm("attn_norm", b.norm))
        keys, comes_in["attn_norm"] = keys.of("attn_norm of all"), replace(comes_in["attn_norm"], own=False)
    rows += [comes_in[name].norm(name, b.norm) for name in b.norm_names]
    if b.norms_first:
        attn, ffn = attn.of("attn_norm"), ffn.of("attn_norm" if b.parallel == "shared_norm" else "mlp_norm")
    rows += attention_rows(b.attention, D, attn, keys or attn)
    rows.append(attn.point("", "residual", "residual", D))
    rows += moe_rows(b.ffn, D, ffn, stream) if experts else mlp_rows(b.ffn, D, ffn, "mlp", "mlp")
    rows.append(ffn.point("", "residual", "residual", D))
    return rows


def routed_tokens(r: RoutingPlan, at: At) -> tuple[Dim, Dim]:
    """(new tokens that pass, cached tokens that they see) in a routed block."""
    if not at.work.sampling:
        return r.capacity, 0
    share = {"expected": r.share, "all": Fraction(1), "none": Fraction(0)}[at.work.routing]
    seen = Fraction(1) if r.all_keys else share
    return whole(share * at.tokens), whole(seen * at.cached)


def ledger(plan: Plan, work: Workload) -> list[Op]:
    """Every row of `plan` under `work`, embedding first, head last.

    Raises UsageError where the workload is longer than learned positions, or of another length than the plan (whole
    sequences: a plan's capacities belong to its seq_len).
    """
    plan.demand_room(work.context + work.seq_len)
    if not work.sampling and work.seq_len != plan.seq_len:
        raise UsageError(f"{plan.name}: the plan is for {plan.seq_len} tokens, the workload for {work.seq_len}")
    e, D = plan.embedding, plan.d_model
    at = At(work, "", work.seq_len, work.context, plan.seq_len, x="x")
    rows: list[Op] = [Lookup(rows=e.vocab_size, width=e.width, tied=plan.head.tied, **at.common("embedding.tokens", "embedding"))]
    if e.scale is not None:
        rows.append(at.point("embedding", "embedding", "scale", e.width))
    if nonzero(e.position_rows):
        rows.append(Lookup(rows=e.position_rows, width=D, tied=plan.head.tied, **at.common("embedding.positions", "positions")))
        rows.append(at.point("embedding", "embedding", "residual", D))
    narrow = not equal(e.width, D)
    if narrow:
        rows.append(at.of("embedding.tokens").linear("embedding.project", "embedding", e.width, D))
    if e.norm:
        rows.append(at.of("embedding").norm("embedding.norm", e.norm))

    if plan.recursion:
        rows += recursion_rows(plan, at)
    else:
        for g in plan.groups:
            rows += block_rows(g.block, replace(at, prefix="blocks.{}", repeat=g.count, layers=g.layers))

    last = at.with_tokens(1 if work.phase == "prefill" else at.tokens, 1)
    if plan.final_norm:
        rows.append(last.norm("final_norm", plan.final_norm))
        last = last.of("final_norm")
    if narrow:
        rows.append(last.linear("head_proj", "head", D, e.width))
        last = last.of("head_proj")
    rows.append(last.linear("head", "head", e.width, e.vocab_size, plan.head.bias, tied=plan.head.tied))
    if plan.head.scale is not None:
        rows.append(last.point("head", "head", "scale", e.vocab_size))
    if plan.head.softcap:
        rows.append(last.point("head", "head", "softcap", e.vocab_size))
    return rows


def recursion_rows(plan: Plan, at: At) -> list[Op]:
    """Blocks before, the shared stack once per recursion with fewer tokens each time, blocks after."""
    rec = plan.recursion
    rows: list[Op] = []
    for g in plan.groups:
        outside = tuple(i for i in g.layers if not rec.holds(i))
        if outside:
            rows += block_rows(g.block, replace(at, prefix="blocks.{}", repeat=len(outside), layers=outside))
    tokens, cached, active, D = at.tokens, at.cached, at.active, plan.d_model
    for step, r in enumerate(rec.routings):
        name = f"recursions.{step}"
        here = replace(at, prefix=name, tokens=tokens, cached=cached, active=active, x=f"{name}.x", positions=f"{name}.positions")
        kept, seen = routed_tokens(r, at)
        rows += routing_rows(r, plan.groups[0].block, here, kept)
        rows.append(here.point("", "residual", "residual", D, tokens=kept))
        for g in plan.groups:
            inside = tuple(i for i in g.layers if rec.holds(i))
            if inside:
                inner = replace(here, prefix="blocks.{}", repeat=len(inside), layers=inside, own=step == 0, scope=name)
                rows += block_rows(g.block, inner.kept(r, kept, seen))
        tokens, cached, active = kept, seen, r.share
    return rows

"""The rules between values of `mod` and `moe`: who chooses what, and how many."""

from modcalc.spec.convert import shown
from modcalc.spec.resolve import selected, tokens_kept
from modcalc.spec.rules import Rules
from modcalc.spec.schema import MAX_LAYERS, Mod, Schedule


def layer_rules(r: Rules, section: str, what: str) -> list[int]:
    """`every` and `offset`, or `layers`. Returns the chosen layers; empty if something about them is wrong."""
    n, s = r.spec.n_layers, getattr(r.spec, section)
    before = len(r.problems)
    if s.layers is not None:
        r.idle(f"with {section}.layers", f"{section}.every", f"{section}.offset")
        for i, layer in enumerate(s.layers):
            if layer >= n:
                r.wrong((section, "layers", i), f"layers 0 to {n - 1} (n_layers {n})", "layers count from 0", f"found {layer}")
            elif i and layer <= s.layers[i - 1]:
                r.wrong((section, "layers", i), "each layer once, in ascending order", found=f"found {layer} after {s.layers[i - 1]}")
        r.need(len(s.layers) > 0, f"{section}.layers", f"at least one layer: {what}", f"or remove {section}")
    elif s.offset is not None:
        r.need(s.offset < n, f"{section}.offset", f"0 to {n - 1} (n_layers {n})")
    elif s.every > n:
        r.wrong(f"{section}.every", f"1 to n_layers {n}: {what}", f"the first is every - 1 = {s.every - 1}; or give offset", f"found {s.every}")
    return selected(n, s.every, s.offset, s.layers) if len(r.problems) == before else []


def mod_rules(r: Rules) -> None:
    mod, spec = r.spec.mod, r.spec
    if mod is None:
        return
    if mod.recursions is None:
        n = len(layer_rules(r, "mod", "nothing would be routed"))
        if spec.parallel != "none":
            r.need(mod.granularity == "block", "mod.granularity", f"block with parallel {spec.parallel}: attention and MLP share one residual")
        if mod.granularity == "mlp":
            r.idle("with mod.granularity mlp, where attention sees all tokens", "mod.keys")
    else:
        n = recursion_rules(r, mod)
    capacity_rules(r, mod, n)
    if mod.router == "random":
        idle = ("mod.predictor_width", "mod.decide", "mod.aux_loss", "mod.z_loss")
        r.idle("with mod.router random: noise has nothing to learn or to predict", *idle)
        r.need(mod.selection == "topk", "mod.selection", "topk with mod.router random", "a threshold needs router: learned")
    if mod.decide == "predictor":
        r.need(mod.predictor_width is not None, "mod.decide", "predictor only with mod.predictor_width", "give predictor_width, or remove decide")


def recursion_rules(r: Rules, mod: Mod) -> int:
    """Returns the number of recursions, 0 if something about the layers is wrong."""
    before, spec = len(r.problems), r.spec
    r.idle("with mod.recursions, which repeats all of `layers`", "mod.every", "mod.offset")
    r.need(mod.granularity == "block", "mod.granularity", "block with mod.recursions: a whole stack repeats")
    r.need(mod.keys == "kept", "mod.keys", "kept with mod.recursions, each of which sees only what the one before kept")
    if mod.layers is not None:
        layer_rules(r, "mod", "nothing would be repeated")
        if len(r.problems) == before and mod.layers != list(range(mod.layers[0], mod.layers[-1] + 1)):
            r.wrong("mod.layers", "layers without a gap with mod.recursions", f"such as {list(range(mod.layers[0], mod.layers[-1] + 1))}")
    shared = len(mod.layers) if mod.layers is not None else spec.n_layers
    unrolled = spec.n_layers + shared * (mod.recursions - 1)
    # The dense twin has them all.
    r.need(unrolled <= MAX_LAYERS, "mod.recursions", f"at most {MAX_LAYERS:,} blocks once unrolled", f"these are {unrolled:,}")
    if not isinstance(mod.capacity, list):
        example = f"[{', '.join(['1.0', '0.67', '0.33'][: mod.recursions])}]" if mod.recursions < 4 else "[1.0, 0.9, …]"
        r.wrong("mod.capacity", f"a list of {mod.recursions} with mod.recursions, one a recursion", f"such as {example}")
    return mod.recursions


def capacity_rules(r: Rules, mod: Mod, n: int) -> None:
    """n: routed blocks or recursions; 0: not known, for other problems hide it."""
    T, c = r.spec.seq_len, mod.capacity
    entries = c if isinstance(c, list) else [] if isinstance(c, Schedule) else [c]
    for i, entry in enumerate(entries):
        if isinstance(entry, int) and entry > T:
            path = ("mod", "capacity", i) if isinstance(c, list) else ("mod", "capacity")
            r.wrong(path, f"1 to T = seq_len {T} tokens, or a share such as 0.125", found=f"found {shown(entry)}")
    what = "recursions" if mod.recursions else "routed blocks"
    if isinstance(c, list):
        if n and len(c) != n or not c:
            r.wrong("mod.capacity", f"{n or 'one'} entries, one for each of the {what}", found=f"found a list of {len(c)}")
    elif isinstance(c, Schedule) and n == 1 and not mod.recursions:
        r.wrong("mod.capacity", "a schedule only over at least 2 routed blocks", "write a share", "found a schedule")
    if mod.recursions and isinstance(c, list):
        kept = [tokens_kept(entry, T, mod.rounding, mod.multiple_of) for entry in c]
        for i in range(1, len(kept)):
            if kept[i] > kept[i - 1]:
                allowed = f"at most the {kept[i - 1]} tokens that the recursion before keeps"
                r.wrong(("mod", "capacity", i), allowed, f"{shown(c[i])} of T = {T} keeps {kept[i]}", f"found {shown(c[i])}")
    if entries and all(isinstance(entry, int) for entry in entries):
        r.idle("with capacities that are token counts: only shares are rounded", "mod.rounding")
    r.need(mod.multiple_of <= T, "mod.multiple_of", f"1 to seq_len {T}", "every capacity would be all tokens")


def moe_rules(r: Rules) -> None:
    moe = r.spec.moe
    if moe is None:
        return
    layer_rules(r, "moe", "no layer would have experts")
    outputs = moe.n_experts + moe.n_noop
    r.need(moe.n_noop <= r.spec.seq_len, "moe.n_noop", f"at most seq_len {r.spec.seq_len}", "more no-op experts than tokens")
    if not moe.n_shared:
        r.idle("without shared experts", "moe.shared_d_ff", hint="give n_shared, or remove shared_d_ff")
        r.idle("without shared experts", "moe.shared_gate", hint="give n_shared, or remove shared_gate")
    if moe.own_norms:
        own = "with moe.own_norms"
        r.need(r.spec.parallel == "none", "parallel", f"none {own}")
        r.need(r.spec.norm.placement == "sandwich", "norm.placement", f"sandwich {own}")
        r.need(moe.n_shared > 0, "moe.n_shared", f"at least 1 {own}, which stand beside shared experts")
        r.need(not (moe.shared_gate and moe.n_shared), "moe.shared_gate", f"false {own}")
        r.need(moe.choice == "token", "moe.choice", f"token {own}")
        r.need(moe.n_noop == 0, "moe.n_noop", f"0 {own}")
    if moe.choice == "token":
        token_choice_rules(r, outputs)
    else:
        r.idle("with moe.choice expert: experts choose tokens", "moe.top_k", "moe.balance_bias", "moe.groups", "moe.top_groups")
        r.need(
            moe.capacity is not None,
            "moe.capacity",
            "a number above 0 with moe.choice expert",
            "tokens per expert are capacity * T / (n_experts + n_noop)",
        )
        r.need(moe.score != "topk_softmax", "moe.score", "softmax_topk | sigmoid with moe.choice expert: there is no top-k over experts")


def token_choice_rules(r: Rules, outputs: int) -> None:
    moe = r.spec.moe
    if moe.top_k is None:
        r.wrong("moe.top_k", f"an integer from 1 to {outputs} with moe.choice token", "experts per token", "missing")
    else:
        r.need(moe.top_k <= outputs, "moe.top_k", f"1 to n_experts + n_noop = {outputs}")
    if moe.n_noop and moe.capacity is None:
        r.wrong("moe.capacity", "a number above 0 with no-op experts", "without a buffer the cost would depend on the data", "missing")
    if moe.score == "topk_softmax" and not moe.renormalize:
        r.wrong("moe.renormalize", "true or nothing with moe.score topk_softmax, whose weights sum to 1 already", "remove it")
    if moe.groups == 1:
        r.need(moe.top_groups == 1, "moe.top_groups", "1 without moe.groups", "give groups")
        return
    if moe.n_noop:
        r.wrong("moe.groups", "1 with no-op experts, which belong to no group")
    elif moe.n_experts % moe.groups:
        r.wrong("moe.groups", f"a divisor of n_experts {moe.n_experts}")
    elif moe.top_groups > moe.groups:
        r.wrong("moe.top_groups", f"1 to groups {moe.groups}")
    elif moe.top_k is not None and moe.top_k > moe.n_experts // moe.groups * moe.top_groups:
        room = moe.n_experts // moe.groups * moe.top_groups
        r.wrong("moe.top_k", f"1 to {room}, the experts in {moe.top_groups} of {moe.groups} groups")

"""The rules between values of a Spec: what contradicts, and what would be accepted and ignored.

Limits that one value breaks alone stand in `schema`. Rules of `mod` and `moe` stand in `validate_routing`.
"""

from collections.abc import Container
from typing import Any

from msgspec import convert, to_builtins

from modcalc.errors import SpecError, UsageError
from modcalc.spec.convert import Problem, shown, structure, to_spec
from modcalc.spec.resolve import by_layer, demand_spec, exact, heads, inner_width, mlp_layers, position_rows
from modcalc.spec.rules import Rules
from modcalc.spec.schema import FullAttention, Limits, ProjectionBias, Spec
from modcalc.spec.validate_routing import mod_rules, moe_rules
from modcalc.spec.yaml_nodes import Path, Unusable
from modcalc.units import parse_bound

# More elements than torch can address, or than any machine holds.
MAX_WEIGHT = 10**18


def checked(data: Any, lines: Container[Path] | None = None) -> tuple[Spec | None, list[Problem]]:
    """Plain data as (Spec, no problems), or (None, every problem found).

    What is left of a file with unknown keys and unusable values is held to the rules too, but for the sections where they
    stand: there a rule may be broken for want of them.
    """
    spec, problems = to_spec(data)
    if spec is not None:
        damaged = {problem.path[:1] for problem in problems}
        problems += [problem for problem in find_problems(spec, lines, not damaged) if problem.path[:1] not in damaged]
    return (None if problems else spec), problems


def find_problems(spec: Spec, lines: Container[Path] | None = None, whole: bool = True) -> list[Problem]:
    """Every rule that `spec` breaks. lines: the file that it was read from, to tell what is written from what is default;
    whole: whether all of it could be used."""
    rules = Rules(spec, lines, whole)
    for check in (text_rules, attention_rules, position_rules, mlp_rules, norm_rules, moe_rules, mod_rules, train_rules, budget_rules, size_rules):
        check(rules)
    return rules.problems


def check_spec(spec: Spec) -> Spec:
    """`spec` as a file would give it, if it keeps every rule: whole numbers are ints, also numpy's. For Specs made in Python; `load` has
    checked what it returns.

    Raises SpecError with all problems, types and ranges of single values among them, and UsageError for what is no Spec.
    """
    demand_spec(spec)
    data, problems = structure(_named(to_builtins(spec, enc_hook=_plain, builtin_types=(bytes,))))
    if not problems:
        spec = convert(data, Spec)
        problems = find_problems(spec)
    if problems:
        raise SpecError([f"{shown(spec.name)}: {problem}" for problem in problems])
    return spec


def _plain(value: Any) -> Any:
    """Numbers of numpy or torch as Python's own; of anything else its description, as bytes, which a spec has nowhere."""
    return value.tolist() if hasattr(value, "tolist") else f"{value!r:.100}, a {type(value).__name__}".encode()


def _named(data: Any) -> Any:
    """The same with bytes as what no field takes."""
    if isinstance(data, dict):
        return {key: _named(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_named(value) for value in data]
    return Unusable(data.decode(errors="replace")) if isinstance(data, bytes) else data


def text_rules(r: Rules) -> None:
    name = r.spec.name
    ok = 0 < len(name) <= 200 and name.isprintable() and name == name.strip()
    r.need(ok, "name", "1 to 200 printable characters on one line, no space at the ends")


def attention_rules(r: Rules) -> None:
    spec, a = r.spec, r.spec.attention
    if a.latent:
        own = ("n_kv_heads", "head_dim", "qk_norm", "full")
        r.idle("with attention.latent, which sets the head dims itself", *(f"attention.{key}" for key in own))
        r.idle("with attention.latent, whose keys and values share one down projection", "attention.v_norm", "attention.values_from_keys")
        r.need(spec.positions.kind == "rotary", "positions.kind", "rotary with attention.latent", "rope_dim is its rotated part")
        if isinstance(a.bias, ProjectionBias) and a.bias.v:
            r.wrong("attention.bias.v", "false with attention.latent: keys and values share one down projection", "write bias.k for it")
    else:
        if a.head_dim is None and spec.d_model % a.n_heads:
            near = f"; divisors near it: {_near_divisors(spec.d_model, a.n_heads)}"
            r.wrong("attention.n_heads", f"a divisor of d_model {shown(spec.d_model)}{near}", "or give head_dim")
        for path in ("attention.n_kv_heads", "attention.full.n_kv_heads"):
            K = r.value(path)
            if K and a.n_heads % K:
                r.wrong(path, f"a divisor of n_heads {a.n_heads}; near it: {_near_divisors(a.n_heads, K)}")
        if a.full:
            r.need(a.full != FullAttention(), "attention.full", f"at least one of {', '.join(FullAttention.__struct_fields__)}")
        if a.values_from_keys and not (a.full and a.full.values_from_keys is False):
            r.idle("with attention.values_from_keys: there is no projection of values", "attention.bias.v")
        for path in ("attention.values_from_keys", "attention.full.values_from_keys"):
            if r.value(path) and not (a.qk_norm and not a.qk_norm.rotated_only and a.v_norm):
                r.wrong(path, "true only with attention.qk_norm, in all layers, and attention.v_norm: true", "one projection, normed in two ways")
    if pattern_rule(r, "attention.window"):
        windows = [window for window, _ in by_layer(spec)]
        if not any(windows):
            r.idle("without an attention.window", "attention.chunked")
        if not a.latent and (not any(windows) or all(windows)):
            r.idle(f"where {'every' if all(windows) else 'no'} layer has an attention.window", "attention.full")


def pattern_rule(r: Rules, path: str) -> bool:
    """A list over the layers has 1 to n_layers entries; True if it has, or is none."""
    value, n_layers = r.value(path), r.spec.n_layers
    if not isinstance(value, list) or 0 < len(value) <= n_layers:
        return True
    r.wrong(path, f"1 to n_layers {n_layers} entries, a pattern that repeats", found=f"found a list of {len(value)}")
    return False


def _near_divisors(n: int, d: int) -> str:
    """Up to two divisors of n around d; looks no further than 10,000 numbers away."""
    below = next((x for x in range(min(d, n), max(min(d, n) - 10_000, 0), -1) if n % x == 0), None)
    above = next((x for x in range(d, min(d + 10_000, n) + 1) if n % x == 0), None)
    return " and ".join(str(x) for x in (below, above) if x) or "1"


def position_rules(r: Rules) -> None:
    spec, p = r.spec, r.spec.positions
    when = f"with positions.kind {p.kind}"
    if p.kind != "rotary":
        r.idle(
            when, "positions.theta", "positions.local_theta", "positions.rotated", "positions.fraction", hint="they belong to positions.kind rotary"
        )
    if p.kind != "learned":
        r.idle(when, "positions.max_len", "positions.offset", hint="they belong to positions.kind learned")
    elif p.max_len is not None and p.max_len < spec.seq_len:
        r.wrong("positions.max_len", f"at least seq_len {spec.seq_len}", "raise max_len, or lower seq_len")
    if p.kind != "rotary":
        return
    if pattern_rule(r, "positions.rotated"):
        if p.rotated is not None and not any(p.rotated):
            r.wrong(
                "positions.rotated",
                "true for some layer",
                "" if spec.attention.latent else "for no positions at all write positions.kind: none",
                "found only false",
            )
        elif spec.attention.window != [] and all(window is None for window, rotated in by_layer(spec) if rotated):
            r.idle("without a rotated layer that has an attention.window", "positions.local_theta")
    latent = spec.attention.latent
    if latent:
        width, where = latent.rope_dim, "attention.latent.rope_dim"
    elif spec.attention.head_dim is None and spec.d_model % spec.attention.n_heads:
        return  # said already
    else:
        width, where = heads(spec)[2], "attention.head_dim" if spec.attention.head_dim else "attention.n_heads"
    full = None if latent else spec.attention.full
    if not (full and full.head_dim) or spec.attention.window == [] or p.rotated == []:
        _turns_pairs(r, width, where)
        return
    turned = {window is None for window, rotated in by_layer(spec) if rotated}
    if False in turned:
        _turns_pairs(r, width, where)
    if True in turned:
        _turns_pairs(r, full.head_dim, "attention.full.head_dim")


def _turns_pairs(r: Rules, width: int, where: str) -> None:
    fraction = r.spec.positions.fraction
    if fraction == 1 and width % 2:
        r.wrong(
            where,
            "an even head dim with rotary positions, which turn pairs",
            f"head dim is {width}" + ("; or give positions.fraction below 1" if width > 2 else ""),
        )
    elif int(exact(fraction) * width) < 2:
        r.wrong("positions.fraction", f"a share that rotates at least 2 of {width} dims")


def mlp_rules(r: Rules) -> None:
    mlp = r.spec.mlp
    if mlp.d_ff is None and mlp.ratio is None:
        r.wrong("mlp", "one of d_ff and ratio", "write d_ff, the inner width, or ratio, its multiple of d_model", "found neither d_ff nor ratio")
    if mlp.d_ff is not None:
        if mlp.ratio is not None:
            r.wrong("mlp.ratio", "one of d_ff and ratio", "remove one of them")
        else:
            r.idle("with mlp.d_ff: only mlp.ratio is rounded", "mlp.multiple_of")
    if mlp.activation == "swiglu_clamped":
        r.need(mlp.kind == "gated", "mlp.activation", "swiglu_clamped only with mlp.kind gated", "it works on gate and value together")
    if mlp.activation == "xielu":
        r.need(r.spec.moe is None, "mlp.activation", "any other with moe", "experts would need weights of their own for it")
    if not mlp_layers(r.spec) and not (r.spec.mod and r.spec.mod.bypass):
        r.idle("where every layer has experts", "mlp.bias", hint="write moe.bias")


def norm_rules(r: Rules) -> None:
    norm, qk = r.spec.norm, r.spec.attention.qk_norm
    if norm.kind == "rmsnorm":
        r.need(
            norm.bias is not True, "norm.bias", "false or nothing with norm.kind rmsnorm, which has no bias", "write kind: layernorm, or remove it"
        )
    if not norm.affine:
        if not (qk and qk.affine):
            r.idle("with norm.affine false: there is no weight", "norm.unit_offset")
        if norm.kind == "layernorm":
            r.need(norm.bias is not True, "norm.bias", "false or nothing with norm.affine false")
    if r.spec.parallel != "none" and not (r.spec.moe and r.spec.moe.own_norms):
        r.need(norm.placement == "pre", "norm.placement", f"pre with parallel {r.spec.parallel}")
    if qk is None:
        return
    positions = r.spec.positions
    if positions.kind != "rotary" or all(positions.rotated or [True]):
        where = "where every layer is rotated" if positions.kind == "rotary" else f"with positions.kind {positions.kind}"
        r.idle(where, "attention.qk_norm.rotated_only")
    kind, affine = qk.kind or norm.kind, norm.affine if qk.affine is None else qk.affine
    if kind == "rmsnorm" and (qk.bias or (qk.bias is None and norm.bias and norm.kind == "layernorm")):
        r.wrong("attention.qk_norm.bias", "false with an rmsnorm, which has no bias", "it is norm.bias unless given; write bias: false")
    if kind == "layernorm" and not affine:
        where = "norm.affine" if qk.affine is None else "attention.qk_norm.affine"
        r.need(not qk.bias, "attention.qk_norm.bias", f"false or nothing with {where} false")


def train_rules(r: Rules) -> None:
    train = r.spec.train
    if train is None or train.tokens is None:
        return
    if train.steps is not None:
        r.wrong("train.tokens", "one of steps and tokens", "remove one of them")
    step = train.batch_size * r.spec.seq_len
    r.need(train.tokens >= step, "train.tokens", f"at least one step of batch_size {train.batch_size} x seq_len {r.spec.seq_len} = {step:,} tokens")


def budget_rules(r: Rules) -> None:
    budget = r.spec.budget
    if budget is None:
        return
    for name in budget.__struct_fields__:
        rule = getattr(budget, name)
        if rule is None:
            continue
        path = f"budget.{name}"
        if not isinstance(rule, Limits):
            _amount(r, path, name, ratio=False)
            continue
        limits_rules(r, path, rule, name)
    train = r.spec.train
    if budget.train_flops is not None and (train is None or (train.steps is None and train.tokens is None)):
        r.wrong("budget.train_flops", "a rule on a schedule that is known", "add train.steps or train.tokens")


def limits_rules(r: Rules, path: str, rule: Limits, name: str) -> None:
    values = {
        bound: _amount(r, f"{path}.{bound}", name, rule.relative_to is not None)
        for bound in ("max", "min", "equals")
        if getattr(rule, bound) is not None
    }
    if not values:
        r.wrong(path, "at least one of max, min, equals", found="found no bound")
    if "equals" in values:
        r.idle("with equals", f"{path}.max", f"{path}.min", hint="use within for a tolerance")
    else:
        r.idle("without equals", f"{path}.within")
    if values.get("min") and values.get("max") and values["min"] > values["max"]:
        r.wrong(f"{path}.min", f"at most max, {shown(rule.max)}")
    if rule.relative_to is not None:
        named = rule.relative_to.strip() != "" and rule.relative_to.isprintable()
        r.need(named, f"{path}.relative_to", "the path of a spec, or a shipped name")


def _amount(r: Rules, path: str, name: str, ratio: bool) -> object:
    """The parsed bound, or None with a problem noted."""
    try:
        return parse_bound(r.value(path), name, ratio=ratio)
    except UsageError as wrong:
        _, _, said = str(wrong).partition("; allowed ")
        r.wrong(path, said + (" (a ratio to relative_to)" if ratio else ""))
        return None


def size_rules(r: Rules) -> None:
    """Each weight matrix within what can exist; single dims are bounded by the schema."""
    spec, a = r.spec, r.spec.attention
    width = a.n_heads * ((a.latent.nope_dim + a.latent.rope_dim + a.latent.v_dim) if a.latent else heads(spec)[2])
    inner = inner_width(spec) if spec.mlp.d_ff or spec.mlp.ratio else 0
    weights = {
        "attention.n_heads": spec.d_model * width,
        "mlp.d_ff" if spec.mlp.d_ff else "mlp.ratio": spec.d_model * inner,
        "positions.offset": spec.d_model * position_rows(spec),
    }
    if a.latent:
        weights["attention.latent.kv_rank"] = a.latent.kv_rank * a.n_heads * (a.latent.nope_dim + a.latent.v_dim)
        weights["attention.latent.q_rank"] = (a.latent.q_rank or 0) * a.n_heads * (a.latent.nope_dim + a.latent.rope_dim)
    if a.full and a.full.head_dim:
        weights["attention.full.head_dim"] = spec.d_model * a.n_heads * a.full.head_dim
    if moe := spec.moe:
        own = moe.d_ff or inner
        weights |= {"moe.n_experts": spec.d_model * moe.n_experts * own, "moe.n_shared": spec.d_model * moe.n_shared * (moe.shared_d_ff or own)}
    for path, size in weights.items():
        if size > MAX_WEIGHT:
            r.wrong(path, f"weights of at most {MAX_WEIGHT:.0e} elements", f"this one would have {size:.1e}")

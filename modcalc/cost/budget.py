"""Budget rules: what a spec may cost, held against what it does cost.

A rule bounds one metric: max, min, or equals (exactly, or within a relative difference). With `relative_to` the bound
is a ratio to the same metric of another spec. Values and bounds are exact (int or Fraction), so a limit is met or not.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction

from modcalc.cost.account import account
from modcalc.cost.memory import kv_cache_bytes
from modcalc.cost.ops import whole
from modcalc.errors import UsageError
from modcalc.spec.resolve import exact, resolve
from modcalc.spec.schema import Limits, Spec
from modcalc.units import parse_bound, parse_ratio

Number = int | Fraction


def batch_size(spec: Spec) -> int:
    """Sequences of one training step."""
    return spec.train.batch_size if spec.train else 1


def steps(spec: Spec) -> int:
    """Optimizer steps of the spec's schedule: as given, or whole steps that see at least train.tokens."""
    if spec.train is None or (spec.train.steps is None and spec.train.tokens is None):
        raise UsageError(f"{spec.name}: train_flops needs a schedule: give train.steps or train.tokens")
    return spec.train.steps or -(-spec.train.tokens // (spec.train.batch_size * spec.seq_len))


def train_memory(spec: Spec) -> int:
    from modcalc.cost.memory import train_memory_bytes

    return train_memory_bytes(resolve(spec), batch_size(spec))


# metric -> (unit, how it is computed). The names are the fields of schema.Budget.
METRICS: dict[str, tuple[str, Callable[[Spec], Number]]] = {
    "params": ("parameters", lambda s: account(s).params.total),
    "active_params": ("parameters", lambda s: account(s).params.active),
    "forward_flops": ("FLOPs", lambda s: account(s).flops.forward),
    "forward_flops_per_token": ("FLOPs", lambda s: Fraction(account(s).flops.forward, s.seq_len)),
    "train_step_flops": ("FLOPs", lambda s: account(s, batch=batch_size(s), phase="train").flops.train_step),
    "train_flops": ("FLOPs", lambda s: steps(s) * account(s, batch=batch_size(s), phase="train").flops.train_step),
    "kv_cache_bytes": ("bytes", lambda s: kv_cache_bytes(resolve(s), s.seq_len, "bf16")),
    "train_memory_bytes": ("bytes", lambda s: train_memory(s)),
}

BOUNDS = {"max": "<=", "min": ">=", "equals": "=="}


@dataclass(frozen=True, slots=True)
class Rule:
    """metric <= / >= / == value, in base units, or as a ratio to `relative_to`. line: where it stands in its file."""

    metric: str
    bound: str
    value: Number
    within: Fraction | None = None
    relative_to: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        value = f"{float(self.value):g}" if isinstance(self.value, Fraction) else f"{self.value:,}"
        times = f" * {self.relative_to}" if self.relative_to else ""
        within = f" within {float(self.within):g}" if self.within is not None else ""
        return f"{self.metric} {BOUNDS[self.bound]} {value}{times}{within}"


@dataclass(frozen=True, slots=True)
class Result:
    """A rule and how it came out. expected, actual and difference (actual - expected) are in `unit`; detail: what else is known."""

    rule: Rule
    expected: Number
    actual: Number
    ok: bool
    unit: str
    detail: str = ""

    @property
    def difference(self) -> Number:
        return whole(self.actual - self.expected)

    @property
    def relative_difference(self) -> float | None:
        return float(Fraction(self.difference) / self.expected) if self.expected else None


def rules_of(spec: Spec, line_of: Callable[[tuple[str, ...]], int | None] = lambda key: None) -> list[Rule]:
    """The rules of a spec's `budget:` section; line_of gives the line of a key."""
    rules: list[Rule] = []
    for metric in METRICS if spec.budget else ():
        limits = getattr(spec.budget, metric)
        if limits is None:
            continue
        if not isinstance(limits, Limits):
            rules.append(Rule(metric, "max", parse_bound(limits, metric), line=line_of(("budget", metric))))
            continue
        for bound in BOUNDS:
            value = getattr(limits, bound)
            if value is not None:
                within = exact(limits.within) if limits.within is not None and bound == "equals" else None
                amount = parse_bound(value, metric, ratio=limits.relative_to is not None)
                rules.append(Rule(metric, bound, amount, within, limits.relative_to, line_of(("budget", metric, bound))))
    return rules


_RULE = re.compile(r"\s*(\w+)\s*(<=|>=|==)\s*([^\s*]+)\s*(?:\*\s*(\S+)\s*)?(?:within\s+(\S+)\s*)?")


def parse_rule(text: str) -> Rule:
    """A rule as on the command line: 'METRIC <= VALUE', '… <= 0.6 * OTHER', '… == VALUE within 0.01'."""
    found = _RULE.fullmatch(text)
    if not found:
        raise UsageError(f"rule {text!r}: write METRIC <= VALUE, METRIC >= VALUE * OTHER_SPEC or METRIC == VALUE within 0.01")
    metric, sign, value, other, within = found.groups()
    if metric not in METRICS:
        near = get_close_matches(metric, METRICS, 1, 0.4)
        raise UsageError(f"rule {text!r}: no metric {metric!r}{f', did you mean {near[0]}' if near else ''}; there are {', '.join(METRICS)}")
    bound = next(name for name, s in BOUNDS.items() if s == sign)
    if within and bound != "equals":
        raise UsageError(f"rule {text!r}: `within` belongs to ==")
    name = f"rule {text!r}"
    amount = parse_bound(value, metric, ratio=other is not None, name=name)
    return Rule(metric, bound, amount, parse_ratio(within, name) if within else None, other)


def contradictions(rules: Iterable[Rule]) -> list[str]:
    """Pairs of rules that no model can meet."""
    bounds: dict[tuple[str, str | None], dict[str, list[Number]]] = {}
    for r in rules:
        slack = r.within or 0
        low, high = {"max": (None, r.value), "min": (r.value, None), "equals": (r.value * (1 - slack), r.value * (1 + slack))}[r.bound]
        at = bounds.setdefault((r.metric, r.relative_to), {"low": [], "high": []})
        at["low"] += [low] if low is not None else []
        at["high"] += [high] if high is not None else []
    return [
        f"{metric}: at least {float(max(b['low'])):g} and at most {float(min(b['high'])):g}{f' times {other}' if other else ''} cannot both hold"
        for (metric, other), b in bounds.items()
        if b["low"] and b["high"] and max(b["low"]) > min(b["high"])
    ]


def check(spec: Spec, rules: Iterable[Rule], other: Callable[[str], Spec]) -> list[Result]:
    """Hold `spec` to each rule. other: loads the spec that a `relative_to` names."""
    measured: dict[tuple[str, str | None], Number] = {}

    def value(metric: str, name: str | None) -> Number:
        if (metric, name) not in measured:
            measured[metric, name] = METRICS[metric][1](other(name) if name else spec)
        return measured[metric, name]

    results = []
    for rule in rules:
        actual = whole(value(rule.metric, None))
        expected = whole(rule.value * (value(rule.metric, rule.relative_to) if rule.relative_to else 1))
        ok = {
            "max": actual <= expected,
            "min": actual >= expected,
            "equals": abs(actual - expected) <= (rule.within or 0) * abs(expected),
        }[rule.bound]
        results.append(Result(rule, expected, actual, ok, METRICS[rule.metric][0]))
    return results

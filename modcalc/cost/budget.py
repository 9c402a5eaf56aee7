"""Budget rules: what a spec may cost, held against what it does cost.

A rule bounds one metric: max, min, or equals (exactly, or within a relative difference). With `relative_to` the bound
is a ratio to the same metric of another spec. Values and bounds are exact (int or Fraction), so a limit is met or not.
"""

import re
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import cached_property

from msgspec import Struct

from modcalc.cost.account import Report, account
from modcalc.cost.memory import kv_cache_bytes, train_memory
from modcalc.cost.ops import whole
from modcalc.cost.training import training_run
from modcalc.errors import UsageError
from modcalc.spec.near import hint
from modcalc.spec.resolve import exact
from modcalc.spec.schema import Limits, Spec
from modcalc.units import parse_bound, parse_difference

Number = int | Fraction


class Costs:
    """What one spec costs, each account made once however many rules ask.

    batch: sequences of a train step, if the spec does not say. report: the account of one sequence, if there is one already.
    """

    def __init__(self, spec: Spec, batch: int = 1, report: Report | None = None) -> None:
        self.spec = spec
        self.batch = batch
        self._report = report

    def beside(self, other: "Costs") -> "Costs":
        """These costs to be compared with `other`: of as many sequences, if the spec does not say."""
        return self if self.batch == other.batch_size else Costs(self.spec, other.batch_size, self.report)

    @cached_property
    def report(self) -> Report:
        return self._report or account(self.spec)

    @property
    def batch_size(self) -> int:
        """Sequences of one training step."""
        return self.spec.train.batch_size if self.spec.train else self.batch

    @property
    def train_flops(self) -> Number:
        """The whole run that `train` plans."""
        run = training_run(self.spec, self.report)
        if run is None:
            raise UsageError(f"{self.spec.name}: train_flops needs a schedule: give train.steps or train.tokens in a spec")
        return run.flops

    @property
    def train_step_flops(self) -> Number:
        """Forward and backward of one step's sequences."""
        return self.batch_size * self.report.flops.train_step

    @property
    def kv_cache_bytes(self) -> Number:
        """Of one sequence as long as the spec's, in bf16, routing at its expected share."""
        return kv_cache_bytes(self.report.plan, self.spec.seq_len)

    @property
    def train_memory_bytes(self) -> int:
        """Of one device that trains on a step's sequences in bf16 with AdamW and fp32 states."""
        return train_memory(self.report.plan, self.batch_size).total


# metric -> (unit, how it is read). The names are the fields of schema.Budget.
METRICS: dict[str, tuple[str, Callable[[Costs], Number]]] = {
    "params": ("parameters", lambda c: c.report.params.total),
    "active_params": ("parameters", lambda c: c.report.params.active),
    "forward_flops": ("FLOPs", lambda c: c.report.flops.forward),
    "forward_flops_per_token": ("FLOPs", lambda c: Fraction(c.report.flops.forward, c.spec.seq_len)),
    "train_step_flops": ("FLOPs", lambda c: c.train_step_flops),
    "train_flops": ("FLOPs", lambda c: c.train_flops),
    "kv_cache_bytes": ("bytes", lambda c: c.kv_cache_bytes),
    "train_memory_bytes": ("bytes", lambda c: c.train_memory_bytes),
}

BOUNDS = {"max": "<=", "min": ">=", "equals": "=="}


class Rule(Struct, frozen=True):
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


class Result(Struct, frozen=True):
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


_RULE = re.compile(r"\s*(\w+)\s*(<=|>=|==)(.*)", re.DOTALL)


def parse_rule(text: str) -> Rule:
    """A rule as on the command line: 'METRIC <= VALUE', '… <= 0.6 * OTHER', '… == VALUE within 0.01'."""
    found = _RULE.fullmatch(text)
    metric, sign, rest = found.groups() if found else ("", "", "")
    limit, said, within = rest.rpartition(" within ")
    value, times, other = (part.strip() for part in (limit if said else rest).partition("*"))
    if not value or set("<>=") & set(value) or (times and not other):
        forms = "METRIC <= VALUE, METRIC >= VALUE * OTHER_SPEC or METRIC == VALUE within 0.01"
        raise UsageError(f"rule {text!r}: write {forms}, without other signs; metrics are {', '.join(METRICS)}")
    if metric not in METRICS:
        raise UsageError(f"rule {text!r}: no metric {metric!r}; there are {', '.join(METRICS)}{hint(metric, METRICS)}")
    bound = next(name for name, s in BOUNDS.items() if s == sign)
    if said and bound != "equals":
        raise UsageError(f"rule {text!r}: `within` belongs to ==")
    name = f"rule {text!r}"
    if value[0] not in "+-.,0123456789":
        raise UsageError(f"{name}: found {value!r}; allowed a number; of another spec, with a factor in front: {metric} {sign} 1 * {value}")
    amount = parse_bound(value, metric, ratio=bool(other), name=name)
    return Rule(metric, bound, amount, parse_difference(within.strip(), name) if said else None, other or None)


def contradictions(rules: Iterable[Rule]) -> list[str]:
    """Pairs of rules that no model can meet: the tightest bounds of each metric, where they leave nothing between them."""
    lows: dict[tuple[str, str | None], tuple[Number, Rule]] = {}
    highs: dict[tuple[str, str | None], tuple[Number, Rule]] = {}
    for r in rules:
        key, slack = (r.metric, r.relative_to), r.within or 0
        low, high = r.value * (1 - slack), r.value * (1 + slack)
        if r.bound != "max" and (key not in lows or low > lows[key][0]):
            lows[key] = low, r
        if r.bound != "min" and (key not in highs or high < highs[key][0]):
            highs[key] = high, r
    pairs = [(lows[key], highs[key]) for key in lows if key in highs]
    return [f"{_told(low_rule)} and {_told(high_rule)} cannot both hold" for (low, low_rule), (high, high_rule) in pairs if low > high]


def _told(rule: Rule) -> str:
    return f"{rule} ({f'line {rule.line}' if rule.line else 'not from the file'})"


def check(costs: Costs, rule: Rule, other: Callable[[str], Costs]) -> Result:
    """Hold one spec to one rule. other: the costs of the spec that a `relative_to` names."""
    unit, read = METRICS[rule.metric]
    reference = other(rule.relative_to).beside(costs) if rule.relative_to else None
    actual = whole(read(costs.beside(reference) if reference else costs))
    expected = whole(rule.value * (read(reference) if reference else 1))
    ok = {
        "max": actual <= expected,
        "min": actual >= expected,
        "equals": abs(actual - expected) <= (rule.within or 0) * abs(expected),
    }[rule.bound]
    lengths = [c.spec.seq_len for c in (costs, reference)] if reference and unit != "parameters" else []
    detail = f"T = {lengths[0]:,} against {lengths[1]:,} of {rule.relative_to}" if len(set(lengths)) > 1 else ""
    return Result(rule, expected, actual, ok, unit, detail)

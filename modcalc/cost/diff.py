"""What changed between two specs: the keys, the cost, and which component caused it."""

from fractions import Fraction

import msgspec
from msgspec import Struct

from modcalc.cost.account import Report, account
from modcalc.cost.memory import kv_cache_bytes
from modcalc.cost.tensors import DTYPE
from modcalc.cost.training import training_run
from modcalc.spec.plan import Dim
from modcalc.spec.schema import Spec

# Keys that describe and never cost.
_WORDS = ("name", "description", "source", "budget")


class Change(Struct, frozen=True):
    """One figure before and after, None where a spec does not say. difference = after - before."""

    label: str
    before: Dim | None
    after: Dim | None

    @property
    def difference(self) -> Dim | None:
        return None if self.before is None or self.after is None else self.after - self.before

    @property
    def relative(self) -> float | None:
        """difference / before; None where there was nothing before."""
        return float(Fraction(self.difference) / self.before) if self.before and self.difference is not None else None


class Diff(Struct, frozen=True):
    """keys: spec key -> (before, after) with defaults filled in. totals and the components' parameters and forward FLOPs
    (largest change first), all for one sequence of each spec's own length unless seq_len was given. Of the `train` sections,
    train_flops: the whole schedule, if there is one; batch_size: sequences of a step, if these differ."""

    before: Report
    after: Report
    keys: dict[str, tuple[object, object]]
    totals: tuple[Change, ...]
    params: tuple[Change, ...]
    flops: tuple[Change, ...]
    train_flops: Change | None
    batch_size: Change | None

    @property
    def summary(self) -> tuple[Change, ...]:
        """The totals, and what there is of training."""
        return (*self.totals, *(c for c in (self.batch_size, self.train_flops) if c))

    @property
    def same(self) -> bool:
        """Whether nothing that costs has changed."""
        return all(c.before == c.after for c in (*self.summary, *self.params, *self.flops))


def diff(before: Spec, after: Spec, *, seq_len: int | None = None, convention: str = "matmul") -> Diff:
    """Compare two specs under one convention. Raises UsageError where seq_len suits one of them not."""
    a, b = (account(s, seq_len=seq_len, convention=convention) for s in (before, after))
    old, new = _flat(before), _flat(after)
    keys = {k: (old.get(k), new.get(k)) for k in dict.fromkeys((*old, *new)) if old.get(k) != new.get(k)}
    totals = tuple(
        Change(label, x, y)
        for label, x, y in (
            ("parameters", a.params.total, b.params.total),
            ("active parameters", a.params.active, b.params.active),
            ("forward FLOPs", a.flops.forward, b.flops.forward),
            ("forward FLOPs per token", a.flops.forward_per_token, b.flops.forward_per_token),
            ("train step FLOPs, one sequence", a.flops.train_step, b.flops.train_step),
            (f"KV cache in {DTYPE} [bytes]", *(kv_cache_bytes(r.plan, r.plan.seq_len) for r in (a, b))),
        )
    )
    runs = (training_run(before, a), training_run(after, b))
    train = Change("training FLOPs, whole schedule", *(run.flops if run else None for run in runs))
    batch = Change("sequences of a train step", *(s.train.batch_size if s.train else None for s in (before, after)))
    scheduled = train if (train.before, train.after) != (None, None) else None
    rebatched = batch if batch.before != batch.after else None
    return Diff(a, b, keys, totals, _components(a, b, "params"), _components(a, b, "forward"), scheduled, rebatched)


def _components(a: Report, b: Report, what: str) -> tuple[Change, ...]:
    x, y = ({line.label: getattr(line, what) for line in r.lines()} for r in (a, b))
    changes = [Change(label, x.get(label, 0), y.get(label, 0)) for label in dict.fromkeys((*x, *y))]
    return tuple(sorted((c for c in changes if c.before or c.after), key=lambda c: -abs(c.difference)))


def _flat(spec: Spec) -> dict[str, object]:
    """Dotted key -> value; sections that are absent have no keys, lists are values."""
    flat: dict[str, object] = {}

    def walk(value: object, key: str) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, f"{key}.{name}" if key else name)
        elif value is not None:
            flat[key] = value

    walk({k: v for k, v in msgspec.to_builtins(spec).items() if k not in _WORDS}, "")
    return flat

"""Looks of a diff."""

from collections.abc import Sequence

from modcalc.cost.diff import Change, Diff
from modcalc.render.table import Column, Table
from modcalc.render.wording import LABELS, in_words


def tables(a: str, b: str, d: Diff) -> list[Table]:
    """Changed keys, totals, and FLOPs and parameters by component."""
    where = f"{a} -> {b}"
    lengths = " -> ".join(dict.fromkeys(f"{side.plan.seq_len:,}" for side in (d.before, d.after)))
    rule = f"forward FLOPs of one sequence ({lengths} tokens) by convention {d.before.convention.name}"
    keys = Table(
        title=f"Keys changed, {where}",
        columns=[Column("Key"), Column("Before"), Column("After")],
        rows=[(k, _word(x), _word(y)) for k, (x, y) in d.keys.items()],
    )
    found = [keys] if d.keys else []
    found.append(_changes(f"Cost, {where}", d.summary, [rule, *in_words(d.before.convention)], ["nothing that costs has changed"] if d.same else []))
    for title, changes in (("Forward FLOPs by component", d.flops), ("Parameters by component", d.params)):
        moved = [c for c in changes if c.difference]
        same = [LABELS.get(c.label, c.label) for c in changes if not c.difference]
        if moved:
            found.append(_changes(title, moved, notes=[f"unchanged: {', '.join(same)}"] if same else []))
    return found


def document(a: str, b: str, d: Diff) -> dict:
    """The same for machines; figures in FLOPs and parameters."""

    def figures(c: Change) -> dict:
        return {"before": c.before, "after": c.after, "difference": c.difference, "relative": c.relative}

    def change(c: Change) -> dict:
        return {"label": c.label, **figures(c)}

    return {
        "before": a,
        "after": b,
        "same": d.same,
        "convention": {"name": d.before.convention.name, "causal": d.before.convention.causal},
        "keys": {k: {"before": x, "after": y} for k, (x, y) in d.keys.items()},
        "totals": [change(c) for c in d.totals],
        "train_flops": figures(d.train_flops) if d.train_flops else None,
        "batch_size": figures(d.batch_size) if d.batch_size else None,
        "flops": [change(c) for c in d.flops],
        "params": [change(c) for c in d.params],
    }


def _changes(title: str, changes: Sequence[Change], headline: Sequence[str] = (), notes: Sequence[str] = ()) -> Table:
    columns = [
        Column("What"),
        Column("Before", "count"),
        Column("After", "count"),
        Column("Difference", "count", drop=1),
        Column("Relative", "change"),
    ]
    rows = [(LABELS.get(c.label, c.label), c.before, c.after, c.difference, c.relative) for c in changes]
    return Table(title=title, headline=headline, columns=columns, rows=rows, notes=notes)


def _word(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join('null' if entry is None else _word(entry) for entry in value)}]"
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

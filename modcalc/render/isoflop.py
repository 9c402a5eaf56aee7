"""The answers of `modcalc isoflop` as tables."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from modcalc.render.numbers import real, si
from modcalc.render.table import Column, Table, bad, good
from modcalc.search.answers import Answer
from modcalc.search.costs import COSTS
from modcalc.search.isoflop import MARKS, TOKENS_PER_PARAM, chinchilla_size, times_off, tokens_per_param
from modcalc.search.results import OK, Candidate, Found
from modcalc.search.rules import ON_RESULTS, OPTIONS
from modcalc.spec.resolve import heads, inner_widths
from modcalc.units import grouped

Cell = tuple[Column, Callable[[Candidate], Any]]
SIZES = {"params": "parameters", "active": "active parameters", "non_embedding": "parameters outside the tables"}
FAR = Fraction(5, 4)  # a row that is said to be near, and is not
UNITS = {"kv": "bytes", "params": "", "active": "", "non_embedding": ""}


def tables(answer: Answer, *, joined: bool = False) -> list[Table]:
    """One table for each budget, or the one of a match. joined: rows of all budgets under one header, for programs."""
    found = [_match(answer, found) if answer.target else _plan(answer, budget, found) for budget, found in answer.founds]
    if not joined or len({tuple(column.name for column in table.columns) for table in found}) > 1:
        return found
    lines = [line for table in found for line in (table.title, *table.headline)]
    rows, notes = [row for table in found for row in table.rows], [note for table in found for note in table.notes]
    return [Table(headline=list(dict.fromkeys(lines)), columns=found[0].columns, rows=rows, notes=notes)]


def _plan(answer: Answer, budget: int, found: Found) -> Table:
    basis = answer.asked.basis
    cells: list[Cell] = [
        *([(Column("budget", "si", drop=12), lambda c: budget)] if len(answer.founds) > 1 else []),
        *_shape_cells(found),
        (Column("non-embedding", "count", "params_non_embedding", drop=11), lambda c: c.params.non_embedding),
        (Column("forward FLOPs", "si", "forward_flops", drop=9), lambda c: c.forward),
        (Column("train FLOPs/token", "si", "train_flops_per_token", drop=10), lambda c: c.train_per_token),
        *_step_cells(answer.count),
        (Column("spent/budget", "ratio", drop=7), lambda c: Fraction(c.schedule.spent) / budget),
    ]
    if answer.light:
        cells += [
            (Column("shape beside", key="beside"), lambda c: c.matched and c.matched.spec.name),
            (Column("its parameters", "count", "beside_params", drop=2), lambda c: c.matched and c.matched.params.total),
            (Column("its FLOPs off", "change", "beside_relative_error", drop=6), lambda c: c.matched and c.matched.error),
        ]
    headline = [
        f"steps of {basis.batch:,} x {basis.seq_len:,} tokens, rounded down; training FLOPs are counted from each shape's rows",
        *_rules(answer),
    ]
    notes = [*_marked(answer, budget, found), *answer.notes, *_tally(found)]
    return _table(f"{answer.asked.terms.family.spec.name}: shapes that spend {float(budget):.6g} training FLOPs", headline, cells, found, notes)


def _marked(answer: Answer, budget: int, found: Found) -> list[str]:
    """What the marks are; how far off their rows are where that is far, and which options would bring one nearer."""
    count, terms = answer.count, answer.asked.terms
    size = chinchilla_size(budget)
    aims = {
        MARKS[0]: ("it", Fraction(TOKENS_PER_PARAM), lambda c: tokens_per_param(c, count), real),
        MARKS[1]: (
            f"{si(size)} {SIZES[count]}, which train on {TOKENS_PER_PARAM} tokens each at 6 FLOPs per parameter and token",
            Fraction(size),
            lambda c: Fraction(c.params.of(count)),
            si,
        ),
    }
    options = [OPTIONS[rule] for rule, n in found.tally.broken.most_common() if n and rule not in ON_RESULTS]
    widths = "other values in --free" if {"d_model", "d_ff"} & terms.axes.keys() else "--free n_layers,d_model"
    options.append("--multiple-of" if terms.stepped else widths)
    nearer = f"to come nearer, try {', '.join(options)}"
    notes = []
    for mark, (what, aim, value, shown) in aims.items():
        for c in found.candidates:
            if mark in c.marks:
                note = f"<- {mark}: the OK row nearest to {what}, by ratio"
                notes.append(f"{note}; at {shown(value(c))} it is far off: {nearer}" if times_off(value(c) / aim) > FAR else note)
    return notes


def _match(answer: Answer, found: Found) -> Table:
    target, basis, budget = answer.target, answer.asked.basis, answer.founds[0][0]
    unit = UNITS.get(target.by, "FLOPs")
    cells: list[Cell] = [*_shape_cells(found), (Column("forward FLOPs", "count", "forward_flops", drop=1), lambda c: c.forward)]
    if target.by not in ("forward", "params"):
        cells.append((Column(target.by, "count", f"cost_{target.by}", unit), lambda c: c.cost))
    cells.append((Column("off", "change", "relative_error"), lambda c: c.error))
    if budget:
        cells += _step_cells(answer.count)
    own = f"{target.spec.name} has {grouped(target.params)} parameters and takes {grouped(target.forward)} FLOPs forward"
    headline = [
        f"target: {COSTS[target.by]}, {grouped(target.cost)} {unit}".rstrip(),
        f"{own}, one sequence of {basis.seq_len:,} tokens",
        *([f"decode after {basis.context:,} cached tokens, routing at its expected share"] if target.by == "decode" else []),
        *_rules(answer),
    ]
    steps = []
    if budget:
        steps.append(f"steps of {basis.batch:,} x {basis.seq_len:,} tokens that {float(budget):.6g} training FLOPs pay, rounded down")
        steps.append(f"{target.spec.name} would make {grouped(target.schedule.steps)} such steps, {si(target.schedule.tokens)} tokens")
    notes = [*steps, *answer.notes, *_tally(found, matched=True)]
    return _table(f"{answer.asked.terms.family.spec.name}: shapes that cost as much as {target.spec.name}", headline, cells, found, notes)


def _table(title: str, headline: list[str], cells: list[Cell], found: Found, notes: list[str]) -> Table:
    cells = [
        *cells,
        (Column("", key="status"), lambda c: (good if c.status == OK else bad)(c.status)),
        (Column("why", key="reason"), _why),
    ]
    rows = [[value(c) for _, value in cells] for c in found.candidates]
    return Table(title=title, headline=headline, columns=[column for column, _ in cells], rows=rows, notes=notes)


def _why(c: Candidate) -> str:
    """Marks of a row, why it is dropped, and why the shape beside it is."""
    beside = f"beside: {c.matched.status} {c.matched.reason}" if c.matched and c.matched.status != OK else ""
    return "; ".join(text for text in (*(f"<- {mark}" for mark in c.marks), c.reason, beside) if text)


def _shape_cells(found: Found) -> list[Cell]:
    """What tells shapes apart, and their parameters."""
    rows = found.candidates
    cells: list[Cell] = [
        (Column("layers", "count", "n_layers"), lambda c: c.spec.n_layers),
        (Column("d_model", "count"), lambda c: c.spec.d_model),
        (Column("heads", "count", "n_heads", drop=5), lambda c: c.spec.attention.n_heads),
        *inner_cells(rows, drop=3),
        *routing_cells(rows),
    ]
    cells.append((Column("parameters", "count", "params"), lambda c: c.params.total))
    if any(c.params.active != c.params.total for c in rows):
        cells.append((Column("active", "count", "params_active", drop=8), lambda c: c.params.active))
    return cells


def inner_cells(rows: Sequence[Candidate], drop: int = 0) -> list[Cell]:
    """The widths of the MLP, where a block has one, and of experts that have their own."""
    found = []
    for title, knob in (("d_ff", "d_ff"), ("expert d_ff", "expert_d_ff")):
        if any(shape(c)[knob] for c in rows):
            found.append((Column(title, "count", drop=drop), lambda c, knob=knob: shape(c)[knob]))
    return found


def routing_cells(rows: Sequence[Candidate]) -> list[Cell]:
    """How many tokens are kept and by which blocks, as far as one number says so; the last to go where it varies."""
    found = []
    for knob, kind in (("capacity", "capacity"), ("every", "count")):
        values = {shape(c)[knob] for c in rows}
        if values - {None}:
            found.append((Column(knob, kind, drop=0 if len(values) > 1 else 6), lambda c, knob=knob: shape(c)[knob]))
    return found


def _step_cells(count: str) -> list[Cell]:
    return [
        (Column("steps", "count", drop=4), lambda c: c.schedule.steps),
        (Column("tokens", "si", drop=1), lambda c: c.schedule.tokens),
        (Column("tokens per param", "real", "tokens_per_param"), lambda c: tokens_per_param(c, count)),
    ]


def shape(c: Candidate) -> dict[str, Any]:
    """What tells a candidate from its family."""
    H, K, N = heads(c.spec)
    d_ff, expert = inner_widths(c.spec)
    mod = c.spec.mod
    return {
        "n_layers": c.spec.n_layers,
        "d_model": c.spec.d_model,
        "n_heads": H,
        "n_kv_heads": K,
        "head_dim": N,
        "d_ff": d_ff,
        "expert_d_ff": expert,
        "capacity": mod.capacity if mod and isinstance(mod.capacity, (int, float)) else None,
        "every": mod.every if mod and not mod.recursions and mod.layers is None else None,
    }


def _rules(answer: Answer) -> list[str]:
    convention = answer.asked.basis.convention
    return [f"{convention.title}: counts {convention.counts}", *(f"rule: {line}" for line in answer.rules)]


def _tally(found: Found, *, matched: bool = False) -> list[str]:
    t = found.tally
    lines = [
        f"looked at {t.looked:,} of {t.size:,} shapes, shown {len(found.candidates):,}"
        + ("; interrupted, better ones may be left" if t.interrupted else "")
    ]
    options = OPTIONS | ({"steps": "the budget or --batch"} if matched else {})  # at least one step there
    gone = [f"{rule} {n:,} ({options[rule]})" for rule, n in t.broken.most_common() if n]
    if gone:
        known = "; those of heads and valid spec are of all shapes, looked at or not" if t.interrupted else ""
        lines.append(f"shapes that break a rule (some break several{known}): {', '.join(gone)}")
    if t.problem:
        lines.append(f"no valid spec, for one: {t.problem}")
    if found.to_blame and not t.interrupted:
        left = " (of the shapes that keep the other rules; to loosen those helps as well)" if found.to_blame in ON_RESULTS else ""
        lines.append(f"no shape is OK; {found.to_blame} excluded most: change {options[found.to_blame]}{left}")
    return lines

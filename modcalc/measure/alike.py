"""Which records of a results file are asked for, and which of them one table can show."""

from collections.abc import Sequence
from typing import Any

from modcalc.errors import UsageError
from modcalc.measure.rating import rated
from modcalc.measure.records import Failed, Record, Result
from modcalc.spec.near import nearest


def facts(record: Record) -> dict[str, str]:
    """What tells records apart, by name: the point, and the conditions that it was measured under."""
    s = record.settings
    baseline = record.baseline if isinstance(record, Failed) else record.baseline and record.baseline.spec
    point = {"spec": record.spec, "baseline": baseline, "batch": s.batch, "seq-len": s.seq_len, "context": s.context}
    return {name: _word(value) for name, value in point.items()} | conditions(record)


def conditions(record: Record) -> dict[str, str]:
    """Those of `facts` that all records under one headline share."""
    s, d = record.settings, record.device
    where = {"device": d.name, "cores": d.cores, "threads": d.threads, "keeps-freed": d.keeps_freed, "driver": d.driver, "cuda": d.cuda}
    how = {"mode": s.mode, "dtype": s.dtype, "compile": s.compile, "cuda-graph": s.cuda_graph, "causal": s.causal, "parallel": s.parallel}
    return {name: _word(value) for name, value in {**where, "torch": record.torch, **how}.items()}


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def only(records: Sequence[Record], words: Sequence[str]) -> list[Record]:
    """The records whose fact NAME is one of the values, for each of `words`: NAME=VALUE,VALUE,….

    Raises UsageError for a NAME that there is not, or a VALUE that no record has.
    """
    known = [facts(record) for record in records]
    kept = range(len(known))
    for word in words:
        name, equals, rest = word.partition("=")
        name = name.strip().replace("_", "-")
        there = list(dict.fromkeys(of[name] for of in known)) if known and name in known[0] else None
        if there is None or not equals:
            raise UsageError(f"--only {word!r}: NAME=VALUE,VALUE,… with NAME one of {', '.join(known[0] if known else ())}{_meant(name, known[0])}")
        values = [rest] if rest in there else [value.strip() for value in rest.split(",")]  # a device's name may have commas
        for value in values:
            if value not in there:
                raise UsageError(f"--only {word!r}: no result has {name} {value!r}; there are {', '.join(there)}{_meant(value, there)}")
        kept = [i for i in kept if known[i][name] in values]
    if not kept:
        raise UsageError(f"--only: no result has all of {' and '.join(words)}")
    return [records[i] for i in kept]


def _meant(word: str, names: Any) -> str:
    meant = nearest(word, names)
    return f"; did you mean {meant}?" if meant and meant != word else ""


def alike(records: Sequence[Record]) -> list[list[Record]]:
    """Records under the same conditions together, in their order, all rated by the peaks that the last of them know."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(conditions(record).values()), []).append(record)
    return [_rated(group) for group in groups.values()]


def _rated(group: list[Record]) -> list[Record]:
    done = [r for r in group if isinstance(r, Result)]
    peak = next((r.peak for r in reversed(done) if r.peak), None)
    reached = next((r.reached for r in reversed(done) if r.reached), None)
    return [rated(r, peak, reached) if isinstance(r, Result) else r for r in group]


def told_apart(groups: Sequence[Sequence[Record]]) -> str:
    """In what groups differ: `mode forward, train; dtype bf16, fp32`."""
    each = [conditions(group[0]) for group in groups]
    values = {name: list(dict.fromkeys(of[name] for of in each)) for name in each[0]}
    return "; ".join(f"{name} {', '.join(found)}" for name, found in values.items() if len(found) > 1)

"""Which records of a results file are asked for, and which of them one table can show."""

from collections.abc import Sequence
from typing import Any

from modcalc.errors import UsageError
from modcalc.measure import hardware
from modcalc.measure.rating import named, rated
from modcalc.measure.records import Failed, Record, Result
from modcalc.spec.near import hint

LENGTH = ("seconds", "iterations", "warmup", "builds")  # how long it was measured
FILE = ""  # among what parts records: which file, by its name alone
TITLES = {"model": "spec", "tokens": "seq-len", "cached": "context"}  # as columns call them


def facts(record: Record) -> dict[str, str]:
    """What tells records apart, by name: the point, and the conditions that it was measured under."""
    s = record.settings
    point = {"spec": record.spec, "baseline": _baseline(record), "batch": s.batch, "seq-len": s.seq_len, "context": s.context}
    length = {name: getattr(s, name) for name in LENGTH}
    return {name: _word(value) for name, value in point.items()} | conditions(record) | {name: _word(value) for name, value in length.items()}


def _baseline(record: Record) -> str | None:
    return record.baseline if isinstance(record, Failed) else record.baseline and record.baseline.spec


def conditions(record: Record) -> dict[str, str]:
    """Those of `facts` that all records under one headline share."""
    s, d = record.settings, record.device
    processes = record.world_size if isinstance(record, Failed) else record.ranks and record.ranks.world_size
    ranks = processes or (1 if s.parallel == "none" else None)
    where = {"device": d.name, "cores": d.cores, "threads": d.threads, "keeps-freed": d.keeps_freed, "driver": d.driver, "cuda": d.cuda}
    how = {"mode": s.mode, "dtype": s.dtype, "compile": s.compile, "cuda-graph": s.cuda_graph, "causal": s.causal, "parallel": s.parallel}
    return {name: _word(value) for name, value in {**where, "torch": record.torch, **how, "ranks": ranks, "protocol": record.protocol}.items()}


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def only(found: Sequence[tuple[str, Record]], words: Sequence[str]) -> list[tuple[str, Record]]:
    """The pairs (file, record) whose fact NAME is one of the values, for each of `words`: NAME=VALUE,VALUE,…. found: at least one.

    Raises UsageError for a NAME that there is not, or a VALUE that no record has.
    """
    known = [facts(record) for _, record in found]
    kept = range(len(known))
    for word in words:
        name, equals, rest = word.partition("=")
        name = name.strip().replace("_", "-")
        name = TITLES.get(name, name)
        if name not in known[0] or not equals:
            raise UsageError(f"--only {word!r}: NAME=VALUE,VALUE,… with NAME one of {', '.join(known[0])}{_meant(name, known[0])}")
        there = list(dict.fromkeys(of[name] for of in known))
        number = rest.replace(",", "")  # as tables write it
        whole = [rest, *([number] if number.isdecimal() else [])]  # a device's name may have commas too
        values = [value for value in whole if value in there][:1] or [value.strip() for value in rest.split(",")]
        for value in values:
            if not any(_is(name, fact, value) for fact in there):
                raise UsageError(f"--only {word!r}: no result has {name} {value!r}; there are {', '.join(there)}{_meant(value, there)}")
        kept = [i for i in kept if any(_is(name, known[i][name], value) for value in values)]
    if not kept:
        raise UsageError(f"--only: no result has all of {' and '.join(words)}")
    return [found[i] for i in kept]


def _is(name: str, fact: str, value: str) -> bool:
    """A spec goes by its name, also where `name (source)` tells it apart."""
    return fact == value or (name == "spec" and fact.startswith(f"{value} ("))


def _meant(word: str, names: Any) -> str:
    return "" if word.isdecimal() or word in names else hint(word, names)


def alike(records: Sequence[Record], peak_tflops: float | None = None, gb_per_s: float | None = None) -> list[list[Record]]:
    """Records under the same conditions together, model by model and point by point, all rated by the newest peaks among them, or by
    `peak_tflops` (and `gb_per_s`).
    """
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(conditions(record).values()), []).append(record)
    return [_in_order(_rated(group, peak_tflops, gb_per_s)) for group in groups.values()]


def _in_order(group: list[Record]) -> list[Record]:
    """Models as they came first, and the points of each from small to large: a sweep may have gone on later."""
    models = list(dict.fromkeys((r.spec, _baseline(r)) for r in group))
    return sorted(group, key=lambda r: (models.index((r.spec, _baseline(r))), r.settings.batch, r.settings.seq_len, r.settings.context))


def _known(record: Record) -> str:
    """When all became known that a record says."""
    return (record.rated or record.time) if isinstance(record, Result) else ""


def _rated(group: list[Record], peak_tflops: float | None, gb_per_s: float | None) -> list[Record]:
    done = sorted((r for r in group if isinstance(r, Result)), key=_known)[::-1]  # the newest first
    given = hardware.peak(group[0].device.name, group[0].settings.dtype, peak_tflops, gb_per_s) if peak_tflops else None
    peak = given or next((r.peak for r in done if r.peak), None)
    reached = next((r.reached for r in done if r.reached), None)
    return [rated(r, peak, reached) if isinstance(r, Result) else r for r in group]


def differences(groups: Sequence[Sequence[Record]]) -> str:
    """In what groups differ: `mode forward, train; dtype bf16, fp32`."""
    each = [conditions(group[0]) for group in groups]
    values = {name: list(dict.fromkeys(of[name] for of in each)) for name in each[0]}
    return "; ".join(f"{name} {', '.join(found)}" for name, found in values.items() if len(found) > 1)


def told_apart(found: Sequence[tuple[str, Record]]) -> list[Record]:
    """Records with the file that each is from -> each once. Those that would look alike (one name and point, but another file, another
    spec, measured longer or at another time) have what parts them in their names; where that is the file, all of the file's that share
    the name have it, so that a sweep stays one line.
    """
    newest: dict[tuple[str, str], tuple[str, Record]] = {}
    for file, record in found:
        measured = (record.key, getattr(record, "time", ""))
        if measured not in newest or _known(record) >= _known(newest[measured][1]):
            newest[measured] = (file, record)
    once = list(newest.values())
    same: dict[tuple[str, ...], list[int]] = {}
    for i, (_, record) in enumerate(once):
        shown = facts(record)
        same.setdefault(tuple(value for name, value in shown.items() if name not in LENGTH), []).append(i)
    marks: dict[int, dict[str, str]] = {}
    for places in same.values():
        if len(places) > 1:
            marks |= zip(places, _marks([once[i] for i in places]), strict=True)
    by_file = {(once[i][0], once[i][1].spec) for i, mark in marks.items() if FILE in mark}
    return [_marked(record, marks.get(i) or ({FILE: file} if (file, record.spec) in by_file else {})) for i, (file, record) in enumerate(once)]


def _marked(record: Record, mark: dict[str, str]) -> Record:
    """The record with `mark` behind the names of its models, each with the hash of its own spec."""

    def name(model: str, words: dict[str, str]) -> str:
        return f"{model} ({', '.join(f'{key} {value}'.strip() for key, value in words.items())})" if words else model

    baseline = _baseline(record)
    measured = record.baseline if isinstance(record, Result) else None
    own = {key: value if key != "spec" else measured.spec_sha256[:8] for key, value in mark.items() if key != "spec" or measured}
    return named(record, name(record.spec, mark), baseline and name(baseline, own))


def _marks(found: Sequence[tuple[str, Record]]) -> list[dict[str, str]]:
    """What parts each from the others, by name: the first of these that does, or as many as it takes."""
    names: dict[str, list[str]] = {
        FILE: [file for file, _ in found],
        "spec": [getattr(r, "spec_sha256", "")[:8] for _, r in found],
        **{name: [_word(getattr(r.settings, name)) for _, r in found] for name in LENGTH},
        "at": [getattr(r, "time", "") for _, r in found],
    }
    used: list[str] = []
    for name, values in names.items():
        if len(set(values)) > 1:
            used.append(name)
        if len(set(zip(*(names[n] for n in used), strict=True))) == len(found):
            break
    return [{name: names[name][i] for name in used} for i in range(len(found))]

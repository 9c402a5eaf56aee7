"""Looks of a check: table, JSON, GitHub annotations with a summary, JUnit."""

import os
import re
import sys
from xml.etree import ElementTree

from modcalc.cost.budget import Result
from modcalc.cost.check import Checked, Outcome
from modcalc.render.numbers import change, count, several
from modcalc.render.output import emit, write
from modcalc.render.table import Column, Table, bad, good

RULE = "FLOPs by convention matmul: 2 per multiply-add, attention over all T x T pairs"
UNHELD = "it is new since then, so nothing holds it"
# What else a metric is of, said where a rule asks for it.
MEANT = {
    "train_step_flops": "a step of train.batch_size sequences, 1 without `train`",
    "train_flops": "whole steps of train.batch_size sequences that see at least train.tokens, or train.steps",
    "kv_cache_bytes": "one sequence in bf16; of tokens that routing keeps out of a cache, the capacity's share is there",
    "train_memory_bytes": "a step of train.batch_size sequences (1 without `train`), bf16 mixed precision, AdamW",
}


def show(outcome: Outcome, format: str | None) -> None:
    """Print the outcome; what went wrong goes to stderr too where stdout holds a table, and what no bill holds always."""
    for c in outcome.checked:
        for note in _told(c):
            print(f"note: {note}", file=sys.stderr)
    if format == "github":
        write(annotations(outcome), exact=True)
        _summary(outcome)
    elif format == "junit":
        write(junit(outcome), exact=True)
    else:
        emit(document(outcome), [table(outcome)], format)
        for line in problems(outcome):
            print(f"error: {line}", file=sys.stderr)


def verdict(outcome: Outcome) -> str:
    missed = sum(len(c.unread) for c in outcome.checked)
    rules = sum(len(c.results) for c in outcome.checked)
    broken = sum(not r.ok for c in outcome.checked for r in c.results)
    unread = sum(bool(c.problems) for c in outcome.checked)
    new = sum(len(c.unheld) for c in outcome.checked)
    asked = f"{several(len(outcome.checked), 'spec')}, {several(rules + missed + new, 'rule')}"
    text = f"{asked}: {rules - broken} held, {broken} broken" + (f", {missed} unread" if missed else "") + (f", {new} of new specs" if new else "")
    text += f"; {several(unread, 'spec')} could not be fully evaluated" if unread else ""
    return text + ("; interrupted, so further specs were not checked" if outcome.interrupted else "")


def sentence(c: Checked, r: Result) -> str:
    """file:line: rule: expected …, actual …, difference …"""
    where = f"{c.source}:{r.rule.line}" if r.rule.line else c.source
    part = f" ({change(r.relative_difference)})" if r.relative_difference is not None else ""
    return (
        f"{where}: {r.rule}: expected {count(r.expected)} {r.unit}, actual {count(r.actual)}, difference {count(r.difference)}{part}"
        f"{f'; {r.detail}' if r.detail else ''}"
    )


def problems(outcome: Outcome) -> list[str]:
    """Every broken rule and unreadable spec, a line each."""
    return [line for c in outcome.checked for line in (*c.problems, *(sentence(c, r) for r in c.results if not r.ok))]


def table(outcome: Outcome) -> Table:
    columns = [
        Column("Spec"),
        Column("Rule"),
        Column("Expected", "count"),
        Column("Actual", "count"),
        Column("Difference", "change", drop=1),
        Column("Unit", drop=2),
        Column("Result"),
    ]
    rows: list[tuple] = []
    for c in outcome.checked:
        for r in c.results:
            rows.append((c.source, str(r.rule), r.expected, r.actual, r.relative_difference, r.unit, good("ok") if r.ok else bad("BROKEN")))
        if c.problems:
            unread = [one.rule for one in c.unread] or ["see the errors"]
            rows += [(c.source, rule, None, None, None, "", bad("UNREAD")) for rule in unread]
        rows += [(c.source, rule, None, None, None, "", "new") for rule in c.unheld]
        if not (c.results or c.problems or c.unheld):
            rows.append((c.source, "no budget: read only", None, None, None, "", good("ok")))
    asked = {r.rule.metric for c in outcome.checked for r in c.results}
    meant = [f"{metric}: {text}" for metric, text in MEANT.items() if metric in asked]
    told = [f"{c.source}: {r.rule.metric}: {r.detail}" for c in outcome.checked for r in c.results if r.ok and r.detail]
    return Table(title="Budgets", headline=[RULE, *meant], columns=columns, rows=rows, notes=[*told, verdict(outcome)])


def document(outcome: Outcome) -> dict:
    results = [
        {
            "spec": c.source,
            "rule": str(r.rule),
            "metric": r.rule.metric,
            "line": r.rule.line,
            "unit": r.unit,
            "expected": r.expected,
            "actual": r.actual,
            "difference": r.difference,
            "ok": r.ok,
            "detail": r.detail or None,
        }
        for c in outcome.checked
        for r in c.results
    ]
    specs = [
        {
            "spec": c.source,
            "ok": c.ok,
            "problems": list(c.problems),
            "unread": [one.rule for one in c.unread],
            "new": list(c.unheld),
            "notes": list(c.notes),
        }
        for c in outcome.checked
    ]
    return {"results": results, "specs": specs, "ok": outcome.ok}


def annotations(outcome: Outcome) -> str:
    """GitHub workflow commands: an error at the file and line of every broken rule, a notice with the verdict."""
    lines = []
    for c in outcome.checked:
        wrong = [(_line(c.source, text), text) for text in c.problems] + [(r.rule.line, sentence(c, r)) for r in c.results if not r.ok]
        for line, text in wrong:
            place = f",line={line}" if line else ""
            lines.append(f"::error file={_property(c.source)}{place},title=modcalc check::{_data(text)}")
        lines += [f"::notice file={_property(c.source)},title=modcalc check::{_data(note)}" for note in _told(c)]
    lines.append(f"::notice title=modcalc check::{_data(verdict(outcome))}")
    return "\n".join(lines) + "\n"


def junit(outcome: Outcome) -> str:
    """One test suite a spec, one test case a rule; a spec or a rule that cannot be read is an error."""
    root = ElementTree.Element("testsuites", name="modcalc check")
    for c in outcome.checked:
        failures = sum(not r.ok for r in c.results)
        suite = ElementTree.SubElement(
            root, "testsuite", name=c.source, tests=str(1 + len(c.results) + len(c.unread)), failures=str(failures),
            errors=str(bool(c.wrong) + len(c.unread)),
        )  # fmt: skip
        for name, problems in (("spec is valid", c.wrong), *((one.rule, one.problems) for one in c.unread)):
            case = ElementTree.SubElement(suite, "testcase", classname=c.source, name=name)
            if problems:
                ElementTree.SubElement(case, "error", message=problems[0]).text = "\n".join(problems)
        for r in c.results:
            case = ElementTree.SubElement(suite, "testcase", classname=c.source, name=str(r.rule))
            if not r.ok:
                ElementTree.SubElement(case, "failure", message=sentence(c, r)).text = sentence(c, r)
        if told := _told(c):
            ElementTree.SubElement(suite, "system-out").text = "\n".join(told)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _told(c: Checked) -> list[str]:
    """What is no error: its notes, and that rules do not hold it yet."""
    return [*c.notes, *(f"{c.source}: {rule}: {UNHELD}" for rule in c.unheld)]


def _line(source: str, text: str) -> int | None:
    """The line that a message about `source` names."""
    found = re.match(re.escape(source) + r":(\d+):", text)
    return int(found[1]) if found else None


def _summary(outcome: Outcome) -> None:
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    from modcalc.render.markup import markdown

    with open(path, "a", encoding="utf-8") as out:
        out.write(markdown(table(outcome)) + "\n" + "".join(f"- {line}\n" for line in problems(outcome)))


def _data(text: str) -> str:
    # GitHub's escapes of workflow commands: percent first.
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")

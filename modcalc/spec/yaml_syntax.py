"""What to say of text that is no YAML: which line, and what to do."""

import re

import yaml


def syntax(wrong: yaml.MarkedYAMLError, text: str, file: str, too_deep: str) -> str:
    """The message for text that YAML's parser refuses. too_deep: what to say where the parser meets its own limit of nesting."""
    problem = wrong.problem or ""
    unended = "simple key" in (wrong.context or "")  # shows only in the lines behind it
    mark = wrong.context_mark if unended or _unclosed(wrong, text) else wrong.problem_mark or wrong.context_mark
    line = mark.line + 1 if mark else 1
    lines = text.splitlines()
    here = lines[line - 1] if line <= len(lines) else ""
    if mark and "\t" in here[: mark.column + 1]:
        return f"{file}:{line}: found a tab; allowed only spaces for indentation; replace it by spaces"
    if "nesting depth" in problem:  # the parser's own limit, which PyYAML 6.0.4 meets before we see the levels
        return f"{file}:{line}: {too_deep}"
    above = next((n for n in range(line - 1, 0, -1) if lines[n - 1].strip() and lines[n - 1].strip()[0] != "#"), line)
    if "mapping values" in problem and here.count(": ") < 2 and _no_key(lines[above - 1]) and _column(lines[above - 1]) == _column(here):
        unended, line, here = True, above, lines[above - 1]  # read as one text with the key that follows
    about = f" {wrong.context}" if wrong.context else ""
    if unended:
        hint = "; put a blank behind the ':'" if ":" in here else "; a key is followed by ': ' and its value"
    else:
        hint = _misplaced(problem, here, lines[above - 1] if lines else "")
    return f"{file}:{line}: not readable as YAML: {problem}{about}{hint}"


def _unclosed(wrong: yaml.MarkedYAMLError, text: str) -> bool:
    """Whether a quote or bracket is open where the text ends, or where a key stands that is no deeper than the line that opened it."""
    opened, found = wrong.context_mark, wrong.problem_mark
    if not opened or not found or not re.search("quoted scalar|flow", wrong.context or ""):
        return False
    lines = text.splitlines()
    if not "".join(lines[found.line :])[found.column :].strip():
        return True
    behind = lines[found.line]
    return found.line > opened.line and ": " in f"{behind} " and _column(behind) <= _column(lines[opened.line])


def _misplaced(problem: str, line: str, above: str) -> str:
    """What to do about a key where none can be."""
    here, there = _column(line), _column(above)
    opens = re.sub(r"\s+[#&].*", "", above).rstrip().endswith(":")  # but for a comment or an anchor
    second_colon = "mapping values" in problem
    ended = any(what in problem for what in ("expected key", "document start", "block end"))
    runs_on = second_colon and (here > there or (here < there and line.count(": ") < 2))  # the line above does, into this one's key
    if not opens and (runs_on or (ended and here != there)):
        return f"; it begins in column {here + 1}, the line above in column {there + 1}: keys of one mapping begin in one column"
    return "; put text that holds ': ' in quotes" if second_colon else ""


def _column(line: str) -> int:
    """Where a line's key begins."""
    return re.match(r"(?: |- )*", line).end()


def _no_key(line: str) -> bool:
    """Whether a line holds neither a key nor an item of a list."""
    return ": " not in line and not line.rstrip().endswith(":") and not line.lstrip().startswith("- ")

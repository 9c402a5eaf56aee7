"""Which looks are chosen, and what is written where: data on stdout, at once; anything else on stderr."""

import os
import sys
from collections.abc import Sequence
from errno import EINVAL
from io import TextIOWrapper
from typing import Any

from modcalc.errors import UsageError
from modcalc.render.numbers import machine
from modcalc.render.table import Styled, Table

FORMATS = ("table", "plain", "markdown", "latex", "csv", "json")


def chosen(format: str | None) -> str:
    """The format asked for, or `table` on a terminal and `plain` elsewhere."""
    if format is None:
        return "table" if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" else "plain"
    if format not in FORMATS:
        raise UsageError(f"format {format!r}: one of {', '.join(FORMATS)}")
    return format


def emit(document: dict[str, Any], tables: Sequence[Table], format: str | None = None) -> None:
    """Print the document (format json; `"schema": 1` is added in front) or the tables (every other format)."""
    if chosen(format) == "json":
        import json

        write(json.dumps(machine_values({"schema": 1, **document}), indent=2, ensure_ascii=False) + "\n", exact=True)
    else:
        show(tables, format)


def show(tables: Sequence[Table], format: str | None = None) -> None:
    """Print tables in any format but json, where nothing is printed."""
    format = chosen(format)
    if format == "json":
        return
    if format == "csv":
        for table in tables:
            say([line for line in (table.title, *table.headline) if line], format)
    write("\n".join(_text(table, format) for table in tables), exact=format == "csv")
    if format == "csv":
        for table in tables:
            say(table.notes, format)


def say(lines: Sequence[str | Styled], format: str | None = None) -> None:
    """Print lines of text that belong to a report: as they are, as a markdown list, as latex comments; csv: on stderr; json: nowhere."""
    facts([("", line) for line in lines], format)


def facts(pairs: Sequence[tuple[str, str | Styled]], format: str | None = None) -> None:
    """As `say`, for lines with a label in front: `parameters: 124,439,808`; aligned on a terminal. Without both, an empty line."""
    format = chosen(format)
    if not pairs or format == "json":
        return
    if format == "table":
        from modcalc.render.terminal import labelled

        return write(labelled(pairs))
    lead = {"markdown": "- ", "latex": "% "}.get(format, "")
    lines = []
    for label, said in pairs:
        text, shown = said.text if isinstance(said, Styled) else said, label
        if format == "markdown":
            from modcalc.render.markup import escaped

            text, shown = escaped(text), f"**{label}**" if label else ""
        lines.append(f"{lead}{shown}{': ' if label else ''}{text}" if label or text else "")
    text = "".join(f"{line}\n" for line in lines)
    if format == "csv":
        sys.stderr.write(text)
    else:
        write(text)


def write(text: str, *, exact: bool = False) -> None:
    """Text to stdout, flushed; characters that the terminal's encoding lacks become '?', but exact text, for programs, is UTF-8 whatever
    the terminal's encoding.
    """
    if exact and isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text if encoding.lower().startswith("utf") else text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except OSError as wrong:
        if not isinstance(wrong, BrokenPipeError) and not (os.name == "nt" and wrong.errno == EINVAL):  # how Windows says it
            raise
        discard_stdout()


def discard_stdout() -> None:
    """Its reader has gone (head, less): nothing is wrong, and nothing more can be written there. Plots, files and the exit code remain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def machine_values(value: Any) -> Any:
    """A document with exact ints, floats for Fractions, null for what is unknown or infinite."""
    if isinstance(value, dict):
        return {str(k): machine_values(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [machine_values(v) for v in value]
    return machine(value)


def _text(table: Table, format: str) -> str:
    if format == "table":
        from modcalc.render.terminal import boxed

        return boxed(table)
    if format == "plain":
        from modcalc.render.plain import plain

        return plain(table)
    from modcalc.render import markup

    return {"markdown": markup.markdown, "latex": markup.latex, "csv": markup.csv_text}[format](table)

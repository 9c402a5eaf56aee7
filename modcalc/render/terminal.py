"""Tables for a person at a terminal: rich boxes, colour where the terminal has it and NO_COLOR is not set."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from modcalc.render.table import Column, Styled, Table

FEW = 5  # columns with a lower `drop` are the last to go: the row means little without them
LABEL_WIDTH = 10  # so that lines printed in steps stay aligned
STYLES = {"good": "green", "bad": "bold red", "dim": "dim", "": ""}


def boxed(table: Table) -> str:
    """The table as text with terminal codes."""
    console = _console()
    keep, wide = fitting(table, console.width)
    parts = [_printed(console, *[Text(table.title, "bold")] * bool(table.title), *(Text(line, "dim") for line in table.headline))]
    # A terminal that is too narrow even so breaks the lines itself: no digit may be cut off.
    parts.append(_printed(_console(max(console.width, _needed(wide, keep))), _grid(table, keep, wide)))
    for i, column in enumerate(table.columns):
        if column.below and i not in keep:
            parts.append(labelled([(row[0], row[i]) for row in table.cells()]))
    left_out = "; ".join(_told(table.columns, i) for i, c in enumerate(table.columns) if i not in keep and not c.below)
    hint = [Text(f"too narrow for: {left_out} (--format plain shows all)", "dim italic")] if left_out else []
    parts.append(_printed(console, *map(Text, table.notes), *hint))
    return "".join(parts)


def labelled(pairs: Sequence[tuple[str, str | Styled]]) -> str:
    """Labels in a column of their own, texts wrapped beside them; without any label, plain lines."""
    console = _console()
    grid = RichTable.grid(padding=(0, 2, 0, 0))
    if any(label for label, _ in pairs):
        grid.add_column(min_width=LABEL_WIDTH, no_wrap=True)
    grid.add_column(overflow="fold")
    for label, said in pairs:
        text, style = said if isinstance(said, Styled) else (said, "")
        grid.add_row(*([Text(label, "bold")] if len(grid.columns) == 2 else []), Text(text, STYLES[style]))
    return _printed(console, grid)


def _console(width: int | None = None) -> Console:
    """As wide as the terminal; where stdout is none and COLUMNS is not set, unlimited."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(file=sys.stdout, width=width or (shutil.get_terminal_size().columns if known else 10_000), highlight=False)


def _printed(console: Console, *things: RenderableType) -> str:
    """What the console would print, without blanks at the ends of lines."""
    with console.capture() as capture:
        for thing in things:
            console.print(thing)
    return "\n".join(line.rstrip() for line in capture.get().split("\n"))


def _told(columns: Sequence[Column], i: int) -> str:
    """What a column is called: after the one before it, where another has the same title."""
    title = columns[i].title
    return f"{title} of {columns[i - 1].title}" if i and sum(c.title == title for c in columns) > 1 else title


def fitting(table: Table, width: int) -> tuple[list[int], list[int]]:
    """(indices of the columns shown, width of each column): those with the highest `drop` go first, while numbers do not fit.

    Text may wrap, down to 24 characters, and down to 12 before columns go of which little is left to say without them (`drop` below
    FEW). The headers of numbers wrap before a column goes.
    """
    keep, cells = list(range(len(table.columns))), table.cells()

    def widths(header: Callable[[str], int], text: int = 24) -> list[int]:
        wide = [max(header(c.header), *(cell_len(row[i]) for row in cells), 0) for i, c in enumerate(table.columns)]
        return [w if c.right else min(max(w, cell_len(c.header)), text) for w, c in zip(wide, table.columns, strict=True)]

    wide = widths(cell_len)
    if _needed(wide, keep) > width:
        wide = widths(_longest_word)
    for drop in (*sorted({c.drop for c in table.columns} - {0}, reverse=True), 0):
        if _needed(wide, keep) <= width:
            break
        if drop < FEW:
            wide = widths(_longest_word, text=12)
        if drop and _needed(wide, keep) > width:
            keep = [i for i in keep if table.columns[i].drop != drop]
    return keep, wide


def _longest_word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)


def _wrapped(header: str, width: int) -> str:
    """Its words on lines of at most `width` places, where a word is no wider."""
    lines: list[str] = []
    for word in header.split():
        if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)


def _needed(wide: Sequence[int], keep: Sequence[int]) -> int:
    return sum(wide[i] + 3 for i in keep) + 1  # a border and two blanks each


def _grid(table: Table, keep: list[int], wide: list[int]) -> RichTable:
    grid = RichTable(box=box.ROUNDED, header_style="bold", border_style="dim", pad_edge=True)
    for i in keep:
        column = table.columns[i]
        header = column.header if not column.right else _wrapped(column.header, wide[i])
        grid.add_column(Text(header), justify="right" if column.right else "left", no_wrap=column.right, overflow="fold")
    cells, styles = table.cells(), table.styles()
    for at, (row, style) in enumerate(zip(cells, styles, strict=True)):
        last = table.total is not None and at == len(cells) - 1
        if last and at:
            grid.add_section()
        grid.add_row(*(Text(row[i], STYLES[style[i]]) for i in keep), style="bold" if last else None)
    return grid

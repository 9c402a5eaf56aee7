"""Tables for a person at a terminal: rich boxes, colour where the terminal has it and NO_COLOR is not set."""

import os
import shutil
import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from modcalc.render.table import Column, Styled, Table

LABEL_WIDTH = 10  # so that lines printed in steps stay aligned
STYLES = {"good": "green", "bad": "bold red", "dim": "dim", "": ""}


def boxed(table: Table) -> str:
    """The table as text with terminal codes."""
    console = _console()
    keep, hidden = fitting(table, console.width)
    with console.capture() as capture:
        if table.title:
            console.print(Text(table.title, "bold"))
        for line in table.headline:
            console.print(Text(line, "dim"))
        if table.columns:
            console.print(_grid(table, keep))
        for line in table.notes:
            console.print(Text(line))
        if hidden:
            left_out = ", ".join(c.name.replace("_", " ") for c in hidden)
            console.print(Text(f"too narrow for: {left_out} (--format plain shows all)", "dim italic"))
    return _trimmed(capture.get())


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
    with console.capture() as capture:
        console.print(grid)
    return _trimmed(capture.get())


def _console() -> Console:
    """As wide as the terminal; where stdout is none and COLUMNS is not set, unlimited."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(file=sys.stdout, width=shutil.get_terminal_size().columns if known else 10_000, highlight=False)


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.split("\n"))


def fitting(table: Table, width: int) -> tuple[list[int], list[Column]]:
    """(indices of the columns shown, columns left out): those with the highest `drop` go first, while numbers do not fit.

    Text may wrap, down to 24 characters.
    """
    cells = [[c.header for c in table.columns], *table.cells()]
    wide = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    wide = [w if c.right else min(w, 24) for w, c in zip(wide, table.columns, strict=True)]
    keep = list(range(len(table.columns)))
    for i in sorted((i for i in keep if table.columns[i].drop), key=lambda i: -table.columns[i].drop):
        if sum(wide[j] + 3 for j in keep) + 1 <= width:
            break
        keep.remove(i)
    return keep, [c for i, c in enumerate(table.columns) if i not in keep]


def _grid(table: Table, keep: list[int]) -> RichTable:
    grid = RichTable(box=box.ROUNDED, header_style="bold", border_style="dim", pad_edge=True)
    for i in keep:
        column = table.columns[i]
        grid.add_column(Text(column.header), justify="right" if column.right else "left", no_wrap=column.right, overflow="fold")
    cells, styles = table.cells(), table.styles()
    for at, (row, style) in enumerate(zip(cells, styles, strict=True)):
        last = table.total is not None and at == len(cells) - 1
        if last:
            grid.add_section()
        grid.add_row(*(Text(row[i], STYLES[style[i]]) for i in keep), style="bold" if last else None)
    return grid

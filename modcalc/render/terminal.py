"""Tables for a person at a terminal: rich boxes, colour where the terminal has it and NO_COLOR is not set."""

import os
import shutil
import sys

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from modcalc.render.table import Column, Table

STYLES = {"good": "green", "bad": "bold red", "dim": "dim", "": ""}


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # the command line's frame knows what to do; rich would end the process with code 1


def boxed(table: Table) -> str:
    """The table as text with terminal codes, as wide as the terminal (unlimited where stdout is none)."""
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal or "COLUMNS" in os.environ else 10_000
    console = _Console(file=sys.stdout, width=width, highlight=False)
    keep, hidden = fitting(table, width)
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
            console.print(Text(f"too narrow for: {', '.join(c.header for c in hidden)} (--format plain shows all)", "dim italic"))
    return "\n".join(line.rstrip() for line in capture.get().split("\n"))


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

"""Tables for papers, pages and spreadsheets: markdown and latex by tabulate, csv by the csv module."""

import csv
import io
from collections.abc import Iterable

from modcalc.render.numbers import machine
from modcalc.render.table import Styled, Table


def markdown(table: Table) -> str:
    """A pipe table under a heading, the total in bold, notes as a list."""
    from tabulate import tabulate

    cells = [_unbroken(row) for row in table.cells()]
    if table.total is not None:
        cells[-1] = [f"**{t}**" if t else t for t in cells[-1]]
    align = ["right" if c.right else "left" for c in table.columns]
    heads = _unbroken(c.header for c in table.columns)
    grid = tabulate(cells, heads, tablefmt="pipe", colalign=align, disable_numparse=True) if heads else ""
    parts = [f"### {table.title}" if table.title else "", "  \n".join(table.headline), grid, "\n".join(f"- {n}" for n in table.notes)]
    return "\n\n".join(p for p in parts if p) + "\n"


def _unbroken(texts: Iterable[str]) -> list[str]:
    """Texts of cells that no pipe within them ends."""
    return [text.replace("|", "\\|") for text in texts]


def latex(table: Table) -> str:
    """A tabular with the rules of the booktabs package; title, headline and notes as comments."""
    from tabulate import tabulate

    lines = [f"% {line}" for line in (table.title, *table.headline) if line]
    if table.columns:
        align = ["right" if c.right else "left" for c in table.columns]
        text = tabulate(table.cells(), [c.header for c in table.columns], tablefmt="latex_booktabs", colalign=align, disable_numparse=True)
        grid = text.splitlines()
        if table.total is not None and table.rows:
            grid.insert(-3, r"\midrule")
        lines += grid
    return "\n".join([*lines, *(f"% {n}" for n in table.notes)]) + "\n"


def csv_text(table: Table) -> str:
    """Raw values under `Column.names`, without the total (it is the sum) where there are other rows; unknown is empty."""
    if not table.columns:
        return ""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([name for column in table.columns for name in column.names])
    for row in table.rows or ([table.total] if table.total is not None else []):
        values = [v for column, cell in zip(table.columns, row, strict=True) for v in column.values(cell)]
        writer.writerow([v.text if isinstance(v, Styled) else machine(v) for v in values])
    return out.getvalue()

"""Tables for papers, pages and spreadsheets: markdown and latex by tabulate, csv by the csv module."""

import csv
import io
import re

from modcalc.render.numbers import machine
from modcalc.render.table import Styled, Table


def markdown(table: Table) -> str:
    """A pipe table under a heading, the total in bold, notes as a list."""
    from tabulate import tabulate

    cells = [list(map(escaped, row)) for row in table.cells()]
    if table.total is not None:
        cells[-1] = [f"**{t}**" if t else t for t in cells[-1]]
    align = ["right" if c.right else "left" for c in table.columns]
    heads = [escaped(c.header) for c in table.columns]
    grid = tabulate(cells, heads, tablefmt="pipe", colalign=align, disable_numparse=True)
    title, *headline = map(escaped, (table.title, *table.headline))
    parts = [f"### {title}" if title else "", "  \n".join(headline), grid, "\n".join(f"- {escaped(n)}" for n in table.notes)]
    return "\n\n".join(p for p in parts if p) + "\n"


# Emphasis and links only where they could be: a lone * or [ of a sentence stays readable as it is written.
_MARKUP = re.compile(r"[\\|`~]|\*(?=\S)|(?<=\S)\*|<(?=[A-Za-z/!?])|&(?=\w+;|#)|(?<![^\W_])_|_(?![^\W_])|\[(?=.*\]\()")


def escaped(text: str) -> str:
    """Text that stays text in markdown, also in a cell: backslashes, pipes, backticks, tags, emphasis and links of users' names."""
    return _MARKUP.sub(lambda found: f"\\{found[0]}", text)


def latex(table: Table) -> str:
    """A tabular with the rules of the booktabs package; title, headline and notes as comments."""
    from tabulate import tabulate

    lines = [f"% {line}" for line in (table.title, *table.headline, r"needs \usepackage{booktabs}") if line]
    align = ["right" if c.right else "left" for c in table.columns]
    text = tabulate(table.cells(), [c.header for c in table.columns], tablefmt="latex_booktabs", colalign=align, disable_numparse=True)
    grid = [re.sub(r"^(\s*)(?=[\[*])", r"\1{}", line) for line in text.splitlines()]  # else an option of the row before
    if table.total is not None and table.rows:
        grid.insert(-3, r"\midrule")
    return "\n".join([*lines, *grid, *(f"% {n}" for n in table.notes)]) + "\n"


def csv_text(table: Table) -> str:
    """Raw values under `Column.names`, without the total (it is the sum) where there are other rows; unknown is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([name for column in table.columns for name in column.names])
    for row in table.rows or ([table.total] if table.total is not None else []):
        values = [v for column, cell in zip(table.columns, row, strict=True) for v in column.values(cell)]
        writer.writerow([v.text if isinstance(v, Styled) else machine(v) for v in values])
    return out.getvalue()

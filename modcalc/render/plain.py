"""Tables as aligned text. Written here and not by tabulate, whose import alone would double the start of a command."""

from unicodedata import combining, east_asian_width

from modcalc.render.table import Table


def plain(table: Table) -> str:
    """Title, headline, columns two spaces apart under a rule, notes; no colour, no box, ASCII but for the user's own names."""
    parts = [line for line in (table.title, *table.headline) if line]
    parts += ["", *_grid(table)] if parts else _grid(table)
    if table.notes:
        parts += ["", *table.notes]
    return "\n".join(parts) + "\n"


def _grid(table: Table) -> list[str]:
    headers = [c.header for c in table.columns]
    cells = table.cells()
    widths = [max(places(row[i]) for row in [headers, *cells]) for i in range(len(headers))]

    def cell(text: str, width: int, right: bool) -> str:
        blanks = " " * (width - places(text))
        return blanks + text if right else text + blanks

    def line(row: list[str]) -> str:
        return "  ".join(cell(t, w, c.right) for t, w, c in zip(row, widths, table.columns, strict=True)).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [line(headers), rule, *map(line, cells)]
    if table.total is not None and table.rows:
        lines.insert(-1, rule)
    return lines


def places(text: str) -> int:
    """Places that a text takes: two for a wide character, none for an accent of its own."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)

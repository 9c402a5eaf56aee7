"""A table of raw values, before anyone decides how it looks."""

from collections.abc import Sequence
from math import isfinite
from typing import Any, NamedTuple

from msgspec import Struct

from modcalc.render.numbers import KINDS, UNKNOWN


class Styled(NamedTuple):
    """Text that a terminal may colour: good, bad or dim."""

    text: str
    style: str


def good(text: str) -> Styled:
    return Styled(text, "good")


def bad(text: str) -> Styled:
    return Styled(text, "bad")


def dim(text: str) -> Styled:
    return Styled(text, "dim")


class Column(Struct, frozen=True):
    """kind: text, count, share, change, ratio, capacity, interval (two ratios), real, bytes, si or seconds (see `numbers`). key: the
    csv header, default from the title. unit: shown behind the title. drop: > 0 lets a narrow terminal leave the column out, highest first;
    below: its cells then stand below the table.
    """

    title: str
    kind: str = "text"
    key: str = ""
    unit: str = ""
    drop: int = 0
    below: bool = False

    @property
    def header(self) -> str:
        return f"{self.title} [{self.unit}]" if self.unit else self.title

    @property
    def name(self) -> str:
        """The csv header."""
        return self.key or "_".join(self.header.replace("[", "").replace("]", "").replace("/", " per ").lower().split())

    @property
    def names(self) -> list[str]:
        """The csv headers: an interval takes two columns."""
        return [f"{self.name}_low", f"{self.name}_high"] if self.kind == "interval" else [self.name]

    def values(self, cell: Any) -> Sequence[Any]:
        """A cell's raw values under `names`."""
        return (cell or (None, None)) if self.kind == "interval" else (cell,)

    @property
    def right(self) -> bool:
        """Whether cells stand at the right, as numbers do."""
        return self.kind != "text"

    def text(self, value: Any) -> str:
        if value is None or (isinstance(value, float) and not isfinite(value)):
            return UNKNOWN
        if isinstance(value, Styled):
            return value.text
        return value if isinstance(value, str) else KINDS[self.kind](value)


class Table(Struct, frozen=True, kw_only=True):
    """columns and rows of raw values (None: unknown); headline: lines above, the convention among them; total: a last row
    set apart; notes: lines below.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    headline: Sequence[str] = ()
    total: Sequence[Any] | None = None
    notes: Sequence[str] = ()

    def cells(self) -> list[list[str]]:
        """Every row as text, the total last if there is one."""
        rows = [*self.rows, self.total] if self.total is not None else self.rows
        return [[column.text(value) for column, value in zip(self.columns, row, strict=True)] for row in rows]

    def styles(self) -> list[list[str]]:
        """The style of each cell of `cells`, empty for none."""
        rows = [*self.rows, self.total] if self.total is not None else self.rows
        return [[value.style if isinstance(value, Styled) else "" for value in row] for row in rows]

"""`modcalc diff A B`."""

from typing import Annotated

import typer

from modcalc.cli.options import ConventionName, Format, SeqLen

HELP = "A spec file, a config.json, a shipped name, or REVISION:FILE of a git repository (HEAD~1:spec.yaml)."
A = Annotated[str, typer.Argument(metavar="A", help=HELP)]
B = Annotated[str, typer.Argument(metavar="B", help=HELP)]


def diff(
    a: A,
    b: B,
    seq_len: SeqLen = None,
    convention: ConventionName = "matmul",
    format: Format = None,
) -> None:
    """What changed in cost from A to B, and which component caused it. Exit 0 whether or not they differ."""
    from modcalc.cli.loading import noted
    from modcalc.cost.diff import diff as compare
    from modcalc.render.diff import document, tables
    from modcalc.render.output import emit
    from modcalc.spec.revision import load_side

    found = compare(noted(load_side(a)), noted(load_side(b)), seq_len=seq_len, convention=convention)
    emit(document(a, b, found), tables(a, b, found), format)

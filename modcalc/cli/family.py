"""`modcalc family`: shapes at a constant cost, such as depth against width at constant parameters."""

from typing import Annotated

import typer

from modcalc.cli.options import Causal, ConventionName, Format, OneSpec, SeqLen, option
from modcalc.cli.search_options import CostName, Force, Out, only_with
from modcalc.errors import UsageError
from modcalc.spec.schema import MAX_SIZE

Vary = Annotated[
    list[str] | None,
    option("--vary", metavar="KNOB=VALUES", help="Such as n_layers=1,2,4 or n_layers=4:40:4; may be repeated."),
]
Solve = Annotated[str, typer.Option("--solve", metavar="KNOB", help="The knob that follows: n_layers, d_model or d_ff.")]
Hold = Annotated[CostName, typer.Option("--hold", help="The cost that stays constant.")]
To = Annotated[str | None, option("--to", metavar="VALUE", help="The constant, such as 41M. [default: the spec's own]")]
Multiple = Annotated[
    int | None,
    option(
        "--multiple-of",
        min=1,
        max=MAX_SIZE,
        help="The solved knob is a multiple of this. [default: 1; d_model: 64, and whole heads]",
    ),
]
Within = Annotated[str, typer.Option("--within", metavar="SHARE", help="Relative difference to the constant that is OK.")]
Context = Annotated[
    int | None,
    option("--context", "-S", min=0, max=MAX_SIZE, help="With --hold decode: tokens already cached. [default: T - 1]"),
]


def family(
    spec: OneSpec,
    vary: Vary = None,
    solve: Solve = "d_ff",
    hold: Hold = "params",
    to: To = None,
    multiple_of: Multiple = None,
    within: Within = "0.05",
    seq_len: SeqLen = None,
    context: Context = None,
    convention: ConventionName = "matmul",
    causal: Causal = None,
    out: Out = None,
    force: Force = False,
    format: Format = None,
) -> None:
    """Shapes of one cost (Petty et al. 2023, arXiv 2310.19956): some knobs of SPEC vary, one is solved for.

    With --hold params depth trades against width at constant parameters. Counted is what the spec has: embeddings, and
    norms and biases if there are any. Solved values are whole; drift is what that leaves. Exit 1 if no shape is OK.
    """
    from modcalc.cli.loading import load_as
    from modcalc.cost.conventions import find_convention
    from modcalc.render.family import document, table
    from modcalc.render.numbers import several
    from modcalc.render.output import emit
    from modcalc.search.costs import Basis
    from modcalc.search.families import constant, parse_vary, specs_of
    from modcalc.search.family import Family
    from modcalc.search.question import at_length
    from modcalc.search.write import folder_for, write_specs
    from modcalc.units import parse_bytes, parse_count, parse_difference

    if not vary:
        raise UsageError("give --vary KNOB=VALUES, such as --vary n_layers=1,2,4,8")
    only_with("--hold decode", hold == "decode", {"--context": context})
    only_with("--out", bool(out), {"--force": force or None})
    values = parse_vary(vary)
    loaded = load_as(spec)
    T = seq_len or loaded.seq_len
    basis = Basis(T, 1, T - 1 if context is None else context, find_convention(convention, causal))
    target = None if to is None else (parse_bytes if hold == "kv" else parse_count)(to, "--to")
    found = constant(
        Family(at_length(loaded, T)), values, solve, hold, basis, target=target, multiple_of=multiple_of, within=parse_difference(within, "--within")
    )
    files = {}
    if out is not None:
        files = write_specs(folder_for(out, force), list(specs_of(found)))
    emit(document(found, files), [table(found)], format)
    if out is not None:
        typer.echo(f"wrote {several(len(files), 'spec')} into {out}", err=True)
    if not found.found:
        raise typer.Exit(1)

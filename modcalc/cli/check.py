"""`modcalc check PATH...`."""

from typing import Annotated, Literal

import typer

from modcalc.cli.options import option
from modcalc.spec.schema import Budget

Paths = Annotated[
    list[str], typer.Argument(metavar="PATH...", help="Spec files, folders of them, shipped names, or config.json files.", show_default=False)
]
Require = Annotated[
    list[str] | None,
    option(
        "--require",
        "-r",
        metavar="RULE",
        help="A rule for every spec: METRIC <= VALUE, or >= or ==, such as 'forward_flops <= 6e11', 'params == 1e9 within 0.01', "
        "'params <= 1.1 * dense-220m', or '… <= 1.05 * HEAD~1:' for 5 % above what the file was in that git revision. "
        f"METRIC: {', '.join(Budget.__struct_fields__)}.",
    ),
]
CheckFormat = Annotated[
    Literal["table", "plain", "json", "github", "junit"] | None,
    option(
        "--format",
        "-f",
        help="github: annotations, and a summary where GITHUB_STEP_SUMMARY is set. [default: table on a terminal, else plain]",
    ),
]


def check(
    paths: Paths,
    require: Require = None,
    counters: Annotated[bool, typer.Option("--counters", help="Demand that fvcore and torch count what the ledger says.")] = False,
    format: CheckFormat = None,
) -> None:
    """Hold specs to the `budget:` section in each, and to the rules given here.

    Exit 0 if every rule holds, 1 if one does not, 2 if a spec or a rule cannot be read.
    """
    from modcalc.cost.budget import parse_rule
    from modcalc.cost.check import Checked, Outcome, check_all
    from modcalc.render.check import show

    extra = None
    if counters:
        from modcalc.measure.agreement import counter_results as extra

    checked: list[Checked] = []
    rules = [parse_rule(text) for text in require or ()]
    try:
        for one in check_all(paths, rules, extra):
            checked.append(one)
    except KeyboardInterrupt:
        show(Outcome(tuple(checked), interrupted=True), format)
        raise
    outcome = Outcome(tuple(checked))
    show(outcome, format)
    raise typer.Exit(outcome.exit_code)

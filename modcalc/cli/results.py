"""`modcalc results`: what `modcalc profile` wrote, shown."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from modcalc.cli.options import Format, Plot

Files = Annotated[list[str], typer.Argument(metavar="FILE...", help="What modcalc profile wrote with --out.", show_default=False)]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="NAME=A,B,…",
        help="Results with these values alone: of spec, baseline, batch, seq-len, context, device, torch, mode, dtype and the like; "
        "may be given again.",
        show_default=False,
    ),
]


def results(files: Files, only: Only = None, plot: Plot = None, format: Format = None) -> None:
    """Tables and plots of results files. Nothing is measured, so neither the device nor torch need be here, and files stay as they are.

    Results that do not share a device, a torch or a kind of step stand in tables of their own.
    """
    from modcalc.cli.profile_options import targets
    from modcalc.errors import UsageError
    from modcalc.measure.alike import alike, told_apart
    from modcalc.measure.alike import only as chosen_by
    from modcalc.measure.results import read_results
    from modcalc.render.output import chosen, emit
    from modcalc.render.profile import document, point_name, tables

    format = chosen(format)
    target = targets({"--plot": plot}, dict.fromkeys(files, "a results file"))
    found = []
    for file in files:
        held = read_results(Path(file))
        found += held.records.values()
        if held.cut:
            print(f"warning: {file}: a line is cut off; its point is not shown", file=sys.stderr)
    if not found:
        raise UsageError(f"{', '.join(files)}: no result yet")
    groups = alike(chosen_by(found, only or ()))
    if target and len(groups) > 1:
        raise UsageError(f"--plot: one plot shows results of one kind, and these differ; choose with --only: {told_apart(groups)}")
    records = [record for group in groups for record in group]
    for record in records:
        for doubt in record.doubts:
            print(f"warning: {point_name(record.spec, record.settings)}: {doubt.removeprefix(f'{record.spec}: ')}", file=sys.stderr)
    emit(document(records), [table for group in groups for table in tables(group, format)], format)
    if target:
        from modcalc.render.plot_profile import plot_profile

        plot_profile(target, records)

"""`modcalc results`: what `modcalc profile` wrote, shown."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modcalc.cli.options import Format, Plot, option
from modcalc.cli.profile_options import Bandwidth, PeakTflops, check_peaks
from modcalc.cli.targets import targets
from modcalc.errors import UsageError, demand_name

if TYPE_CHECKING:
    from modcalc.measure.records import Record

Files = Annotated[
    list[str], typer.Argument(metavar="FILE...", help="What modcalc profile wrote with --out, or folders of such .jsonl files.", show_default=False)
]
Only = Annotated[
    list[str] | None,
    option(
        "--only",
        metavar="NAME=A,B,…",
        help="Results with these values alone: of spec, baseline, batch, seq-len, context, device, torch, mode, dtype and the like; "
        "may be given again.",
    ),
]


def results(
    files: Files, only: Only = None, peak_tflops: PeakTflops = None, gb_per_s: Bandwidth = None, plot: Plot = None, format: Format = None
) -> None:
    """Tables and plots of results files. Nothing is measured, so neither the device nor torch need be here, and files stay as they are.

    Results that do not share a device, a torch or a kind of step stand in tables of their own. Each is shown once, and rated by the
    newest peak among its like.
    """
    from modcalc.measure import alike
    from modcalc.measure.records import Failed
    from modcalc.render.output import chosen, emit
    from modcalc.render.points import warnings
    from modcalc.render.profile import document, tables

    format = chosen(format)
    check_peaks(peak_tflops, gb_per_s)
    paths: dict[Path, bool] = {}
    for file in files:
        demand_name("FILE", file)
        for path in _within(Path(file)):
            paths[path] = paths.get(path, True) and Path(file).is_dir()
    target = targets({"--plot": plot}, {str(path): "a results file" for path in paths})
    found = _read(paths)
    groups = alike.alike(alike.told_apart(alike.only(found, only or ())), peak_tflops, gb_per_s)
    records = [record for group in groups for record in group]
    if target and len(groups) > 1:
        raise UsageError(f"--plot: one plot shows results of one kind, and these differ; choose with --only: {alike.differences(groups)}")
    if target and all(isinstance(record, Failed) for record in records):
        raise UsageError("--plot: nothing to draw, as memory ran out at every point")
    shown = [records] if format == "csv" else groups
    emit(document(records), [table for group in shown for table in tables(group, format)], format)
    for doubt in warnings(records):
        print(f"warning: {doubt}", file=sys.stderr)
    if target:
        from modcalc.render.plot_profile import plot_profile

        plot_profile(target, records)


def _within(path: Path) -> list[Path]:
    """The file itself, or the results files of a folder. Raises UsageError where it has none."""
    if not path.is_dir():
        return [path]
    try:
        found = sorted(path / name for name in os.listdir(path) if name.endswith(".jsonl"))
    except OSError as wrong:
        raise UsageError(f"{path}: cannot be read: {wrong.strerror}") from wrong
    if found:
        return found
    raise UsageError(f"{path}: no .jsonl file in this folder; profile --out FILE.jsonl writes one")


def _read(paths: "dict[Path, bool]") -> "list[tuple[str, Record]]":
    """(file, record) of all that the files hold. paths: file -> whether it was only found in a folder, which may hold other .jsonl files."""
    from modcalc.measure.results import begins, read_results

    # As few parts of a path as tell the files apart.
    deep = next((n for n in (1, 2) if len({path.parts[-n:] for path in paths}) == len(paths)), 0)
    found = []
    for path, unnamed in paths.items():
        if unnamed and not path.exists():
            print(f"warning: {path}: a link to a file that is not there; left out", file=sys.stderr)
            continue
        try:
            held = read_results(path)
        except UsageError as wrong:
            if not unnamed or begins(path):
                raise
            print(f"warning: {wrong}; left out", file=sys.stderr)
            continue
        found += [(str(Path(*path.parts[-deep:])), record) for record in held.records.values()]
        if held.lost:
            lines = "a line is cut off" if held.lost == 1 else f"{held.lost:,} lines are cut off"
            print(f"warning: {path}: {lines}, and points that were not measured again are missing", file=sys.stderr)
    if not found:
        raise UsageError(f"{', '.join(map(str, paths))}: no result yet")
    return found

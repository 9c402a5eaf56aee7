"""Trains dense and Mixture-of-Depths models on the same text and compares them. `python -m benchmarks.train_mod --help`."""

import json
import os
import platform
import sys
from dataclasses import asdict
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Literal

import torch
import typer

from modcalc.errors import MissingDependency, ModcalcError, UsageError
from modcalc.measure.hardware import describe
from modcalc.render.output import show
from modcalc.render.progress import progress

from .arms import PRESETS, Arm, Preset, arms
from .data import Corpus, standard_library
from .report import document, plot, table
from .routing import evaluate
from .run import Run

RESULTS = Path(__file__).parent.parent / "results"
DRAWS = find_spec("matplotlib") is not None


def main(
    preset: Annotated[Literal["auto", "smoke", "cpu", "gpu"], typer.Option(help="auto: gpu where there is one, else cpu.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each model. [default: the preset's]", show_default=False)] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. [default: torch's]", show_default=False)] = None,
    work: Annotated[
        Path | None, typer.Option(help="Checkpoints; a run that was killed goes on from here. [default: .train_mod/PRESET]", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Results. [default: benchmarks/results/train_mod-PRESET-DATE]", show_default=False)] = None,
) -> None:
    """Held-out loss of dense, MoD at the same training FLOPs, MoD at the same steps, and random routing, over several seeds."""
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device {device!r}: one of auto, cpu, cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingDependency("no CUDA device here; --device cpu works")
    device = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    preset = ("gpu" if device == "cuda" else "cpu") if preset == "auto" else preset
    if threads:
        torch.set_num_threads(threads)
    p = PRESETS[preset]
    work = work or Path(".train_mod") / preset
    out = out or RESULTS / f"train_mod-{preset}-{date.today().isoformat()}"
    for option, folder in (("--work", work), ("--out", out)):
        _folder(option, folder)
    if not DRAWS:
        print("note: matplotlib is not installed, so nothing is drawn; run: pip install 'modcalc[plot]'", file=sys.stderr)
    corpus = standard_library()
    machine = {
        "date": date.today().isoformat(),
        "device": describe(torch.device(device)).name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }
    claim(work, p, corpus, machine)
    result = experiment(p, seeds or p.seeds, corpus, work, device, out, machine)
    show([table(result["summary"])])


def experiment(p: Preset, seeds: int, corpus: Corpus, work: Path, device: str, out: Path, machine: dict) -> dict:
    """Every arm with every seed, seed by seed, so that an early end leaves whole comparisons. Losses are written after each interval,
    their plot after each seed; what checkpoints hold already is written with the first that is new, or at the end.
    """
    plan = arms(p)
    points: list[dict] = []
    routing: list[dict] = []
    new = False
    total = seeds * sum(arm.train_flops(p.batch_size, arm.steps) for arm in plan)
    with progress("training, FLOPs", total) as advance:
        for seed in range(seeds):
            for arm in plan:
                run = Run(p, arm, seed, corpus, work, device)
                points += run.points
                advance(run.train_flops)
                before = run.train_flops
                for point in run.intervals():
                    points.append(point)
                    advance(run.train_flops - before)
                    before, new = run.train_flops, True
                    write(out, p, plan, points, routing, machine, corpus)
                found = evaluate(run)
                routing += [found] if found else []
                last = (seed, arm) == (seeds - 1, plan[-1])
                if new or last:
                    result = write(out, p, plan, points, routing, machine, corpus)
            if DRAWS and (new or last):
                plot(out / "loss.svg", result["summary"], points)
    return result


def write(out: Path, p: Preset, plan: list[Arm], points: list[dict], routing: list[dict], machine: dict, corpus: Corpus) -> dict:
    """Replace results.json as a whole."""
    result = document(p, plan, points, routing, machine, corpus.description)
    _replace(out / "results.json", json.dumps(result, indent=1) + "\n")
    return result


def claim(work: Path, p: Preset, corpus: Corpus, machine: dict) -> None:
    """Checkpoints of another experiment must not be continued as if they were of this one, nor those of another device or torch."""
    stamp = work / "experiment.json"
    this = {"preset": asdict(p), "corpus": corpus.description["sha256"], "device": machine["device"], "torch": machine["torch"]}
    if not stamp.exists():
        _replace(stamp, json.dumps(this))
    try:
        held = json.loads(stamp.read_text())
    except (OSError, ValueError):
        raise UsageError(f"{stamp}: not readable, so nothing says what the checkpoints here are of; give another --work, or remove it") from None
    if held != this:
        raise UsageError(
            f"{work}: holds checkpoints of other settings, another device or torch, or another Python's text; give another --work, or remove it"
        )


def _folder(option: str, folder: Path) -> None:
    """Make it, if need be. Raises UsageError where nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as wrong:
        raise UsageError(f"{option} {folder}: {wrong.strerror or wrong}") from None


def _replace(file: Path, text: str) -> None:
    """Write a file as a whole: a run killed here leaves the old one."""
    part = file.with_suffix(".part")
    part.write_text(text)
    os.replace(part, file)


if __name__ == "__main__":
    try:
        app = typer.Typer(rich_markup_mode=None, add_completion=False)  # rich's help shows no defaults that texts state
        app.command()(main)
        app()
    except ModcalcError as wrong:
        sys.exit(f"error: {wrong}")

"""`modcalc isoflop`: shapes that spend a compute budget, or that cost as much as another model."""

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from modcalc.cli.devices import GpuPeak
from modcalc.cli.options import AsMod, Causal, ConventionName, Format, OneSpec, Plot, SeqLen
from modcalc.cli.search_options import (
    Aspect,
    Beside,
    Budgets,
    By,
    Count,
    DecodeContext,
    DeviceHours,
    FfRatio,
    Force,
    Free,
    GpuName,
    HeadDim,
    Limit,
    Match,
    Mfu,
    MinSteps,
    Multiple,
    Out,
    ParamBand,
    Per,
    Prefer,
    Ratio,
    StepBatch,
    Within,
    only_with,
    paid_by,
)
from modcalc.cli.targets import targets
from modcalc.errors import UsageError, demand_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from modcalc.search.answers import Answer

SLOW = 2_000_000  # candidates from which on progress is shown


def isoflop(
    spec: OneSpec,
    mod: AsMod = None,
    budget: Budgets = None,
    device_hours: DeviceHours = None,
    gpu: GpuName = None,
    peak_tflops: GpuPeak = None,
    mfu: Mfu = None,
    match: Match = None,
    by: By = None,
    free: Free = None,
    prefer: Prefer = None,
    per: Per = None,
    within: Within = "0.001",
    aspect: Aspect = None,
    ff_ratio: FfRatio = None,
    params: ParamBand = None,
    tokens_per_param: Ratio = None,
    count: Count = None,
    min_steps: MinSteps = None,
    batch: StepBatch = None,
    seq_len: SeqLen = None,
    context: DecodeContext = None,
    multiple_of: Multiple = None,
    head_dim: HeadDim = None,
    beside: Beside = None,
    limit: Limit = None,
    convention: ConventionName = "matmul",
    causal: Causal = None,
    out: Out = None,
    force: Force = False,
    plot: Plot = None,
    format: Format = None,
) -> None:
    """From a budget to shapes, tokens and steps (--budget), or from a model to others that cost the same (--match).

    SPEC is the family: its attention, MLP, vocabulary and routing stay, the free knobs vary. Training FLOPs are counted
    exactly, by the rows of each shape, not as 6ND (but for --convention 6nd). Exit code 1 if no shape is OK, 2 if nothing can
    be asked so, 130 if the search was interrupted: what was found until then is printed.
    """
    from modcalc.cli.loading import load_as
    from modcalc.cost.conventions import find_convention
    from modcalc.search.answers import Asked, matched, planned
    from modcalc.search.costs import Basis
    from modcalc.search.defaults import STEP_BATCH
    from modcalc.search.question import at_length, terms
    from modcalc.search.write import folder_for
    from modcalc.units import parse_count, parse_difference

    for option, name in (("--match", match), ("--beside", beside)):
        if name is not None:
            demand_name(option, name)
    if budget and device_hours:
        raise UsageError("--budget and --device-hours: each says what is spent; give one or the other")
    paid = paid_by(device_hours, gpu, peak_tflops, mfu, convention)
    budgets = [paid[0]] if paid else list(dict.fromkeys(parse_count(b, "--budget") for b in budget or ()))
    if not budgets and not match:
        raise UsageError("give --budget FLOPS (such as --budget 6e18) or --device-hours, --match OTHER, or both")
    if match and budget and len(budget) > 1:
        raise UsageError("--budget with --match: one budget, whose steps are shown for every match")
    only_with("--match", bool(match), {"--by": by, "--per": per})
    only_with("--budget or --device-hours", bool(budgets), {"--batch": batch, "--plot": plot})
    plans = {"--tokens-per-param": tokens_per_param, "--count": count, "--min-steps": min_steps, "--beside": beside}
    only_with("--budget or --device-hours, without --match", bool(budgets and not match), plans)
    only_with("--match or --beside", bool(match or beside), {"--prefer": prefer})
    only_with("--by decode", by == "decode", {"--context": context})
    only_with("--out", bool(out), {"--force": force or None})
    target = targets({"--plot": plot}, {})
    family = load_as(spec, mod)
    T = seq_len or family.seq_len
    basis = Basis(
        T,
        batch or (family.train.batch_size if family.train else STEP_BATCH),
        context if context is not None else T - 1,
        find_convention(convention, causal),
    )
    family = at_length(family, T)
    other = load_as(match) if match else None
    scope = dict(aspect=aspect, ff_ratio=ff_ratio, params=params, multiple_of=multiple_of, head_dim=head_dim)
    asked = Asked(
        terms=terms(family, other=other, free=free, **scope),
        budgets=tuple(budgets),
        paid=paid and paid[1],
        basis=basis,
        within=parse_difference(within, "--within"),
        prefer=prefer,
        per=per,
        limit=limit,
    )
    folder = None if out is None else folder_for(out, force)
    if other is not None:
        answer = matched(asked, other, by or "forward", _progress)
    else:
        light = at_length(load_as(beside), T) if beside else None
        answer = planned(asked, light, tokens_per_param, count or "params", min_steps or 1, _progress)
    _report(answer, folder, target, format)


@contextmanager
def _progress(text: str, size: int) -> "Iterator[Callable[[int], None]]":
    """A bar on stderr, where the search takes long enough to be seen."""
    if size < SLOW:
        yield lambda n: None
        return
    from modcalc.render.progress import progress

    with progress(text, size) as advance:
        yield advance


def _report(answer: "Answer", folder: "Path | None", target: "Path | None", format: str | None) -> None:
    """Print, write and draw an answer; exit with 130 if the search was interrupted."""
    from modcalc.render.isoflop import tables
    from modcalc.render.isoflop_document import document
    from modcalc.render.numbers import several
    from modcalc.render.output import emit
    from modcalc.search.write import specs_of, write_specs

    written = list(specs_of(answer)) if folder else []
    files = write_specs(folder, written) if folder else {}
    emit(document(answer, files), tables(answer, joined=format == "csv"), format)
    if folder:
        bare = sum(spec.budget is None for _, spec in written)
        unheld = f"; {bare:,} without a budget, as modcalc check counts no such cost" if bare else ""
        typer.echo(f"wrote {several(len(files), 'spec')} into {folder}{unheld}", err=True)
    if target:
        from modcalc.render.plot_isoflop import plot_isoflop

        plot_isoflop(target, answer)
    if answer.interrupted:
        looked = sum(found.tally.looked for _, found in answer.founds)
        print(f"interrupted after {looked:,} shapes: this is what the search had found", file=sys.stderr)
        raise typer.Exit(130)
    if not any(found.ok for _, found in answer.founds):
        raise typer.Exit(1)

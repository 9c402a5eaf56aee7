"""`modcalc flops`: what specs cost by the ledger, and whether counters that run the models agree."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import typer

from modcalc.cli.devices import GpuPeak
from modcalc.cli.flops_options import (
    Backward,
    By,
    Counting,
    DeviceHours,
    GpuBandwidth,
    GpuName,
    Gpus,
    Mfu,
    Tokens,
    check,
    counters_of,
    roof_of,
    timing_of,
)
from modcalc.cli.options import (
    AsMod,
    AttentionKernel,
    Batch,
    Causal,
    Context,
    ConventionName,
    Format,
    Macs,
    Phase,
    Plot,
    Recompute,
    SeqLen,
    Specs,
)
from modcalc.cli.targets import targets
from modcalc.errors import UsageError, reason

if TYPE_CHECKING:
    from modcalc.cost.account import Report
    from modcalc.cost.recompute import Hardware
    from modcalc.cost.roofline import Roof
    from modcalc.cost.training import Cluster, Spent, TrainingRun
    from modcalc.measure.agreement import Verdict
    from modcalc.render.wording import Unit


class Billed(NamedTuple):
    """One spec by the ledger. cases: of routing at sampling; hardware and run: of a train step."""

    report: "Report"
    twin: "Report | None"
    cases: Mapping[str, "Report"]
    hardware: "Hardware | None"
    run: "TrainingRun | None"


def flops(
    specs: Specs,
    mod: AsMod = None,
    seq_len: SeqLen = None,
    batch: Batch = 1,
    count: Counting = None,
    backward: Backward = False,
    by: By = None,
    causal: Causal = None,
    convention: ConventionName = "matmul",
    macs: Macs = False,
    phase: Phase = "forward",
    context: Context = None,
    recompute: Recompute = None,
    attention: AttentionKernel = None,
    tokens: Tokens = None,
    gpus: Gpus = None,
    gpu: GpuName = None,
    peak_tflops: GpuPeak = None,
    gb_per_s: GpuBandwidth = None,
    mfu: Mfu = None,
    device_hours: DeviceHours = None,
    format: Format = None,
    plot: Plot = None,
) -> None:
    """FLOPs and parameters of specs: by the ledger at once, then by counters that run the model, which must agree.

    Exit code 1: a counter finds another number (the modules are listed) or cannot count; 2: something cannot be served.
    """
    from modcalc.cli.loading import load_all
    from modcalc.cost.account import account
    from modcalc.cost.compare import sampling_range, twin
    from modcalc.cost.training import training_run
    from modcalc.render.output import chosen
    from modcalc.render.wording import Unit
    from modcalc.units import parse_count

    again = {name: value for name, value in {"recompute": recompute, "attention": attention}.items() if value}
    of_training = {**again, "tokens": tokens, "gpus": gpus, "device-hours": device_hours}
    check(phase, context, seq_len, causal, backward, [f"--{name}" for name, value in of_training.items() if value])
    timing = timing_of(gpus, gpu, peak_tflops, mfu, device_hours, convention)
    roof = roof_of(gpu, peak_tflops, gb_per_s, timing is not None)
    seen = None if tokens is None else parse_count(tokens, "--tokens")
    counters = counters_of(count, phase)
    if plot is not None and (by in ("total", "path") or (by == "layer" and len(specs) > 1)):
        raise UsageError(f"--plot with --by {by}: it draws components, of any number of specs, or the layers of one (--by layer)")
    target = targets({"--plot": plot}, {})
    backward = backward or phase == "train"
    format = chosen(format)
    billed = []
    for spec in load_all(specs, mod):
        report = account(spec, seq_len=seq_len, batch=batch, phase=phase, context=context, convention=convention, causal=causal)
        run, hardware = (training_run(spec, report, seen), _hardware(report, again)) if backward else (None, None)
        if timing and run is None:
            raise UsageError(
                f"--{'gpus' if gpus else 'device-hours'}: {spec.name} does not say how long it is trained; give --tokens, such as --tokens 15T"
            )
        billed.append(Billed(report, twin(report, spec), sampling_range(report, spec), hardware, run))

    reports = [one.report for one in billed]
    unit = Unit(macs, reports[0].convention.multiply_add)
    _show(billed, by, unit, backward, timing, format)
    _show_training(billed, unit, "--tokens" if tokens else "the spec's `train`", timing, format)
    _show_roofline(billed, roof, by, backward, format)
    if target:
        from modcalc.render.plot_breakdown import plot_breakdown, plot_layers

        dense = billed[0].twin
        if by == "layer":
            plot_layers(target, reports[0], unit, dense, backward=backward)
        else:
            plot_breakdown(target, [dense, *reports] if dense and len(reports) == 1 else reports, unit, backward=backward)
    verdicts: list[list[Verdict]] = [[] for _ in reports]
    try:
        for report, found in zip(reports, verdicts, strict=True):
            for verdict in _count(report, counters, Unit(macs), backward, format, alone=len(reports) == 1):
                found.append(verdict)
    finally:  # an interrupt, too, leaves what was found
        if format == "json":
            _document(billed, verdicts, timing, roof, backward, by, macs)
    if not all(v.agrees for one in verdicts for v in one):
        raise typer.Exit(1)


def _show(billed: list[Billed], by: str | None, unit: "Unit", backward: bool, timing: "Cluster | Spent | None", format: str) -> None:
    """The analytic part, for a person."""
    if format == "json":
        return
    from modcalc.render.breakdown import breakdown, comparison, side_by_side
    from modcalc.render.output import facts, show, write
    from modcalc.render.sampling import sampling_tables
    from modcalc.render.wording import remarks

    more = []
    if len(billed) == 1:
        report, dense = billed[0].report, billed[0].twin
        show([breakdown(report, by or "component", unit, backward=backward, twin=dense)], format)
        facts([("", ""), *remarks(report, unit, twin=dense, backward=backward)], format)
    else:
        reports = [one.report for one in billed]
        beside = [side_by_side(reports, by, unit, backward=backward)] if by not in (None, "total") else []
        if format == "csv" and beside:  # for a program, the one that was asked for
            show(beside, format)
        else:
            show([comparison(reports, unit, backward=backward, runs=[one.run for one in billed], timing=timing)], format)
            more += beside
    more += sampling_tables([(one.cases, one.twin) for one in billed if one.cases], unit, format)
    if more:
        write("\n")
        show(more, format)


def _hardware(report: "Report", again: dict[str, str]) -> "Hardware | None":
    """What a device is asked for. None, unless it was asked for, of a convention that counts recomputation itself (then an error) or no pairs of
    tokens: what fused attention computes again would be 0 there.
    """
    from modcalc.cost.recompute import hardware_flops
    from modcalc.cost.workload import Training

    rule = report.convention
    if (rule.recompute_terms or rule.causal is None) and not again:
        return None
    return hardware_flops(report, Training(**again))


def _show_training(billed: list[Billed], unit: "Unit", said: str, timing: "Cluster | Spent | None", format: str) -> None:
    """Below the FLOPs of a train step: what a device is asked for, and what the whole run costs."""
    if format == "json":
        return
    from modcalc.render.hardware import hardware_facts
    from modcalc.render.output import facts
    from modcalc.render.wording import training

    for one in billed:
        told = hardware_facts(one.report, one.hardware, unit) if one.hardware else []
        told += training(one.run, unit, said, timing) if one.run else []
        if told:
            facts([*([] if len(billed) == 1 else [("", ""), ("", one.report.plan.name)]), *told], format)


def _show_roofline(billed: list[Billed], roof: "Roof | None", by: str | None, backward: bool, format: str) -> None:
    """How long a step takes at least on the device that was given, if one was; and where, of one spec."""
    if roof is None or format == "json":
        return
    from modcalc.render.output import show, write
    from modcalc.render.roofline import parts_table, roofline_table

    write("\n")
    tables = [roofline_table([(one.report, one.twin, one.cases) for one in billed], roof, backward)]
    if len(billed) == 1 and by != "total":
        tables.append(parts_table(billed[0].report, billed[0].twin, roof, by or "component", backward))
    show(tables, format)


def _count(report: "Report", counters: list[str], unit: "Unit", backward: bool, format: str, alone: bool) -> Iterator["Verdict"]:
    """Each counter's verdict, told as soon as it is there; with `backward`, torch also counts the train step."""
    if not counters:
        return
    from modcalc.measure.agreement import Verdict, ledger_by_path, run
    from modcalc.render.counted import counted_as, differences_table, verdict_facts
    from modcalc.render.output import facts, show
    from modcalc.render.progress import working

    name = report.plan.name
    facts([("", ""), *([] if alone else [("", name)]), *counted_as(report, unit)], format)
    for counter, both in [(c, False) for c in counters] + [("torch", True) for c in counters if backward and c == "torch"]:
        try:
            with working(f"{name}: counting by {counter}{', train step' if both else ''}"):
                verdict = run(report, counter, backward=both)
        except Exception as failed:  # whatever a counter stumbles over, the ledger's answer stands
            verdict = Verdict(counter, both, sum(ledger_by_path(report, both).values()), None, reason=reason(failed))
        facts(verdict_facts(verdict, unit), format)
        if verdict.differences:
            show([differences_table(verdict, unit)], format)
        yield verdict


def _document(
    billed: list[Billed],
    verdicts: list[list["Verdict"]],
    timing: "Cluster | Spent | None",
    roof: "Roof | None",
    backward: bool,
    by: str | None,
    macs: bool,
) -> None:
    """One document for one spec; `reports` of several."""
    from msgspec.structs import asdict

    from modcalc.render.counted import verdicts_document
    from modcalc.render.document import account_document, training_document
    from modcalc.render.output import emit

    documents = []
    for (report, dense, cases, hardware, run), of in zip(billed, verdicts, strict=True):
        document = account_document(report, by or "component", twin=dense, sampling=cases, macs=macs) | verdicts_document(report, of)
        if roof:
            from modcalc.render.roofline import roofline_document

            document["roofline"] = roofline_document(report, dense, cases, roof, by or "component", backward)
        if hardware:
            document["hardware"] = asdict(hardware)
        if run:
            document["training"] = training_document(run, timing)
        documents.append(document)
    emit(documents[0] if len(documents) == 1 else {"reports": documents}, [], "json")

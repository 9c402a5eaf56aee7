"""`modcalc flops`: what specs cost by the ledger, and whether counters that run the models agree."""

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

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
from modcalc.cli.flops_shown import Bill, Billed, draw, show
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
    Sweep,
    given,
    swept,
)
from modcalc.cli.targets import targets
from modcalc.errors import UsageError, reason

if TYPE_CHECKING:
    from modcalc.cost.account import Report
    from modcalc.cost.recompute import Hardware
    from modcalc.measure.agreement import Verdict
    from modcalc.render.wording import Unit


def flops(
    ctx: typer.Context,
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
    sweep: Sweep = None,
    format: Format = None,
    plot: Plot = None,
) -> None:
    """FLOPs and parameters of specs: by the ledger at once, then by counters that run the model, which must agree.

    Exit code 1: a counter finds another number (the modules are listed) or cannot count; 2: something cannot be served.
    """
    from modcalc.cli.loading import load_all
    from modcalc.cost.account import account
    from modcalc.cost.axes import axis, combinations
    from modcalc.cost.compare import sampling_range, twin
    from modcalc.cost.training import training_run
    from modcalc.render.output import chosen, emit
    from modcalc.render.wording import Unit, at, varying
    from modcalc.units import parse_count

    again = {name: value for name, value in {"recompute": recompute, "attention": attention}.items() if value}
    of_training = {**again, "tokens": tokens, "gpus": gpus, "device-hours": device_hours}
    words, sweep = given(ctx), sweep or []
    check(words, swept(words, sweep), phase, causal, backward, [f"--{name}" for name, value in of_training.items() if value])
    points = combinations([axis(text) for text in sweep], phase)
    timing = timing_of(gpus, gpu, peak_tflops, mfu, device_hours, convention)
    roof = roof_of(gpu, peak_tflops, gb_per_s, timing is not None)
    seen = None if tokens is None else parse_count(tokens, "--tokens")
    counters = counters_of(count, phase, bool(sweep))
    if plot is not None and (by in ("total", "path") or (by == "layer" and len(specs) > 1)):
        raise UsageError(f"--plot with --by {by}: it draws components, of any number of specs, or the layers of one (--by layer)")
    target = targets({"--plot": plot}, {})
    backward = backward or phase == "train"
    format = chosen(format)
    billed = []
    for spec, point in product(load_all(specs, mod), points):
        settings = {"seq_len": seq_len, "batch": batch, "context": context} | point
        report = account(spec, **settings, phase=phase, convention=convention, causal=causal)
        run, hardware = (training_run(spec, report, seen), _hardware(report, again)) if backward else (None, None)
        if timing and run is None:
            raise UsageError(
                f"--{'gpus' if gpus else 'device-hours'}: {spec.name} does not say how long it is trained; give --tokens, such as --tokens 15T"
            )
        billed.append(Billed(report, twin(report, spec), sampling_range(report, spec), hardware, run))

    bill = Bill(billed, len(points) if sweep else 0, Unit(macs, billed[0].report.convention.multiply_add), by, backward, timing, roof)
    if format != "json":
        show(bill, "--tokens" if tokens else "the spec's `train`", format)
    if target:
        draw(bill, target)
    verdicts: list[list[Verdict]] = [[] for _ in billed]
    differ = varying([one.report.work for one in billed]) if sweep else []
    try:
        for (report, *_), found in zip(billed, verdicts, strict=True):
            name = "" if len(billed) == 1 and not sweep else at(report.plan.name, report.work, differ)
            for verdict in _count(report, counters, Unit(macs), backward, format, name):
                found.append(verdict)
    finally:  # an interrupt, too, leaves what was found
        if format == "json":
            documents = _documents(bill, verdicts, macs)
            emit({"reports": documents} if sweep or len(documents) > 1 else documents[0], [], "json")
    if not all(v.agrees for one in verdicts for v in one):
        raise typer.Exit(1)


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


def _count(report: "Report", counters: list[str], unit: "Unit", backward: bool, format: str, heading: str) -> Iterator["Verdict"]:
    """Each counter's verdict, told below `heading` as soon as it is there; with `backward`, torch also counts the train step."""
    if not counters:
        return
    from modcalc.measure.agreement import Verdict, ledger_by_path, run
    from modcalc.render import output
    from modcalc.render.counted import counted_as, differences_table, verdict_facts
    from modcalc.render.progress import working

    name = heading or report.plan.name
    output.facts([("", ""), *([("", heading)] if heading else []), *counted_as(report, unit)], format)
    for counter, both in [(c, False) for c in counters] + [("torch", True) for c in counters if backward and c == "torch"]:
        try:
            with working(f"{name}: counting by {counter}{', train step' if both else ''}"):
                verdict = run(report, counter, backward=both)
        except Exception as failed:  # whatever a counter stumbles over, the ledger's answer stands
            verdict = Verdict(counter, both, sum(ledger_by_path(report, both).values()), None, reason=reason(failed))
        output.facts(verdict_facts(verdict, unit), format)
        if verdict.differences:
            output.show([differences_table(verdict, unit)], format)
        yield verdict


def _documents(bill: Bill, verdicts: list[list["Verdict"]], macs: bool) -> "list[dict[str, Any]]":
    """What a program reads of each."""
    from msgspec.structs import asdict

    from modcalc.render.counted import verdicts_document
    from modcalc.render.document import account_document, training_document

    documents, by = [], bill.by or "component"
    for (report, dense, cases, hardware, run), of in zip(bill.billed, verdicts, strict=True):
        document = account_document(report, by, twin=dense, sampling=cases, macs=macs) | verdicts_document(report, of)
        if bill.roof:
            from modcalc.render.roofline import roofline_document

            document["roofline"] = roofline_document(report, dense, cases, bill.roof, by, bill.backward)
        if hardware:
            document["hardware"] = asdict(hardware)
        if run:
            document["training"] = training_document(run, bill.timing)
        documents.append(document)
    return documents

"""Time of a generated token against the tokens cached, dense and Mixture-of-Depths in turn.

    python -m benchmarks.decode_context [SPEC] [--batch 1,8] [--contexts 128,1024,4096,8192] [--seconds 10] --out FILE.jsonl

Measures what `modcalc profile SPEC --baseline dense --mode decode --sweep batch=… --sweep context=…` measures, in the same way:
one token of every sequence over caches of fixed length, the spec and its dense twin A B A B. Every point is a line
of FILE.jsonl (raw samples, versions, device) as soon as it is there, and is not measured again; FILE.svg is the plot, and the
table is printed as markdown. SPEC: default mod-220m on a GPU, benchmarks/shapes/cpu-512.yaml on the CPU; both route 12.5 % of
the tokens in every other block.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from modcalc import load
from modcalc.errors import ModcalcError
from modcalc.measure.hardware import describe, peak, pick
from modcalc.measure.jobs import axis, jobs
from modcalc.measure.point import Job
from modcalc.measure.records import Failed, Record, Result, Settings
from modcalc.measure.results import ResultsFile
from modcalc.measure.sweep import run
from modcalc.render.markup import markdown
from modcalc.render.numbers import interval, seconds
from modcalc.render.plot import COLOURS, figure, plot_target
from modcalc.render.points import headline
from modcalc.render.profile import BYTES
from modcalc.render.table import Column, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DEFAULT = {"cuda": "mod-220m", "cpu": "benchmarks/shapes/cpu-512.yaml"}
MARKERS = "os^Dv"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", nargs="?", metavar="SPEC")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), help="default: bf16 on a GPU, fp32 on the CPU")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--contexts", default="128,1024,4096,8192")
    parser.add_argument("--seconds", type=float, default=10.0, help="for samples, per point; default 10")
    parser.add_argument("-n", "--iterations", type=int, help="samples of each model, instead of --seconds")
    parser.add_argument("--warmup", type=int, help="steps before the clock counts")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.jsonl")
    return parser.parse_args()


def measured(args: argparse.Namespace) -> list[Record]:
    """Every point, old or new, in order."""
    device = pick(args.device)
    dtype = args.dtype or ("bf16" if device.type == "cuda" else "fp32")
    settings = Settings(
        mode="decode",
        batch=1,
        seq_len=1,
        context=0,
        dtype=dtype,
        compile=False,
        cuda_graph=False,
        seconds=None if args.iterations else args.seconds,
        iterations=args.iterations,
        warmup=args.warmup,
    )
    job = Job(spec=load(args.spec or DEFAULT[device.type]), baseline=None, settings=settings, device=device, peak=peak(describe(device).name, dtype))
    todo = jobs(job, [job.spec], [axis(f"batch={args.batch}"), axis(f"context={args.contexts}")], dense=True)
    found = []
    with ResultsFile(args.out) as file:
        for record, _ in run(todo, file):
            found.append(record)
            s = record.settings
            print(f"batch {s.batch}, {s.context:,} cached: {'out of memory' if isinstance(record, Failed) else 'done'}", file=sys.stderr)
    return found


def about(records: Sequence[Record]) -> list[str]:
    """Device, software and what was counted, without the peak, of which nothing is made here."""
    return headline(records)[:5]


def table(records: Sequence[Record]) -> Table:
    """One row a point."""
    columns = (
        Column("batch", "count"), Column("cached", "count"),
        Column("dense", "seconds"), Column("quartiles"), Column("MoD", "seconds"), Column("quartiles"),
        Column("time ratio", "ratio"), Column("interval"), Column("FLOP ratio", "ratio"), Column("byte ratio", "ratio"),
    )  # fmt: skip
    rows = []
    for r in records:
        row = [r.settings.batch, r.settings.context]
        if isinstance(r, Failed):
            rows.append([*row, None, "out of memory", None, "", None, "", None, None])
            continue
        b = r.baseline
        for time in (b.step_time_s, r.step_time_s):
            row += [time.median, f"{seconds(time.p25)} to {seconds(time.p75)}"]
        ends = b.time_ratio_interval
        rows.append([*row, b.time_ratio, interval(ends) if ends else "too few", b.flop_ratio, r.byte_ratio])
    notes = [
        "time of one step: one token of each sequence, so the time that each of them waits for its next token",
        "ratios are MoD / dense; each token passes a routed block by chance of its share, and a routed cache holds that share",
        BYTES,
    ]
    return Table(columns=columns, rows=rows, title="Time per token against context", headline=about(records), notes=notes)


def plot(target: Path, records: Sequence[Record]) -> None:
    """Left: median time with quartiles. Right: ratios to the dense model."""
    done = [r for r in records if isinstance(r, Result)]
    if not done:
        return
    with figure(target, "Time per token against context", "\n".join(about(done)), width=13.0, height=5.0, grid=(1, 2)) as axes:
        for marker, batch in zip(cycle(MARKERS), sorted({r.settings.batch for r in done}), strict=False):
            points = sorted((r for r in done if r.settings.batch == batch), key=lambda r: r.settings.context)
            _times(axes[0], points, marker, f"batch {batch}")
            _ratios(axes[1], points, marker, f"batch {batch}")
        for each in axes:
            each.set_xlabel("tokens cached")
            each.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
            each.legend(frameon=False)
        axes[0].set_ylim(bottom=0)
        axes[0].set_ylabel("time of a step (one token of each sequence)")
        axes[0].yaxis.set_major_formatter(lambda x, _: seconds(x))
        axes[1].set_ylim(0, None)
        axes[1].set_ylabel("MoD / dense")


def _times(axes: "Axes", points: Sequence[Result], marker: str, name: str) -> None:
    x = [r.settings.context for r in points]
    for colour, whose, times in (
        (COLOURS[0], "dense", [r.baseline.step_time_s for r in points]),
        (COLOURS[1], "MoD", [r.step_time_s for r in points]),
    ):
        spread = [[t.median - t.p25 for t in times], [t.p75 - t.median for t in times]]
        axes.errorbar(x, [t.median for t in times], yerr=spread, color=colour, marker=marker, capsize=3, label=f"{whose}, {name}")


def _ratios(axes: "Axes", points: Sequence[Result], marker: str, name: str) -> None:
    x = [r.settings.context for r in points]
    axes.plot(x, [r.baseline.time_ratio for r in points], color=COLOURS[2], marker=marker, label=f"time, {name}")
    axes.plot(x, [r.baseline.flop_ratio for r in points], color=COLOURS[3], marker=marker, linestyle="--", label=f"FLOPs, {name}")
    axes.plot(x, [r.byte_ratio for r in points], color=COLOURS[4], marker=marker, linestyle=":", label=f"bytes, {name}")


def main() -> None:
    args = arguments()
    try:
        target = plot_target(args.out.with_suffix(".svg"))
        records = measured(args)
    except ModcalcError as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        sys.exit(2)
    plot(target, records)
    print(markdown(table(records)))


if __name__ == "__main__":
    main()

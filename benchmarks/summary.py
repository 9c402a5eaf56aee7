"""What a folder of results says, against what was aimed at.

    python -m benchmarks.summary benchmarks/results/<machine>-<date>

Reads what cpu.sh and gpu.sh wrote, and writes summary.md there: one table of the models that were compared, one of the aims.
An aim that was missed is a row like any other; what was not measured is left out. Prints the same.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec

from modcalc.measure.hardware import Device
from modcalc.measure.records import Attribution, Result, Settings
from modcalc.measure.results import read_results
from modcalc.render.markup import markdown
from modcalc.render.numbers import interval, ratio, seconds, share
from modcalc.render.points import device_line
from modcalc.render.table import Column, Table

REPEAT, SUM, LLAMA, MFU, SLACK = 0.02, 0.02, 1.0, 0.50, 0.05
SAVING = {"train": 0.95, "forward": 0.90}


class Aim(NamedTuple):
    """What was aimed at, and what was seen. met: None where a figure is only reported."""

    what: str
    aim: str
    seen: str
    met: bool | None


def results(folder: Path) -> dict[str, list[Result]]:
    """File name without suffix -> its finished points."""
    found = {path.stem: [r for r in read_results(path).records.values() if isinstance(r, Result)] for path in sorted(folder.glob("*.jsonl"))}
    return {name: records for name, records in found.items() if records}


def pairs(found: dict[str, list[Result]]) -> list[Result]:
    """Every model that was compared with its dense twin or partner, sampling included."""
    return [r for name, records in found.items() if not name.startswith(("self", "where", "ranks")) for r in records if r.baseline]


def compared(records: list[Result]) -> Table:
    """One row a point."""
    fields = [
        (Column("model"), lambda r: r.spec),
        (Column("baseline"), lambda r: r.baseline.spec),
        (Column("mode"), lambda r: how(r.settings)),
        (Column("batch", "count"), lambda r: r.settings.batch),
        (Column("tokens", "count"), lambda r: r.settings.seq_len),
        (Column("cached", "count"), lambda r: r.settings.context),
        (Column("step", "seconds"), lambda r: r.step_time_s.median),
        (Column("baseline's", "seconds"), lambda r: r.baseline.step_time_s.median),
        (Column("MFU", "share"), lambda r: r.mfu),
        (Column("baseline's MFU", "share"), lambda r: r.baseline.mfu),
        (Column("FLOP ratio", "ratio"), lambda r: r.baseline.flop_ratio),
        (Column("time ratio", "ratio"), lambda r: r.baseline.time_ratio),
        (Column("interval"), lambda r: between(r.baseline.time_ratio_interval)),
        (Column("realised saving", "ratio"), lambda r: r.baseline.realised_saving),
    ]
    if any(r.alone_ratio for r in records):
        fields.insert(-1, (Column("alone", "ratio"), lambda r: r.alone_ratio))
    return Table(columns=[column for column, _ in fields], rows=[[value(r) for _, value in fields] for r in records], title="Compared in turn")


def how(s: Settings) -> str:
    return f"{s.mode}, captured" if s.cuda_graph else s.mode


def between(ends: tuple[float, float] | None) -> str:
    return "no interval" if ends is None else interval(ends)


def aims(folder: Path, found: dict[str, list[Result]]) -> Iterator[Aim]:
    """Every aim that the results can answer."""
    for name, records in found.items():
        if name.startswith("saving-"):
            yield from savings(records)
        elif name.partition("-")[0] in ("train", "forward", "graph"):
            for spec in dict.fromkeys(r.spec for r in records):
                yield from gpu_pairs([r for r in records if r.spec == spec])
        elif name == "self":
            yield from (itself(r) for r in records)
        elif name == "where":
            yield from (attributed(r, a) for r in records for a in r.attribution)
    again = [r for name, records in found.items() if name.startswith("self-") for r in records]
    for builds in sorted({len(r.baseline.build_ratios) for r in again}):
        yield themselves([r for r in again if len(r.baseline.build_ratios) == builds], builds)
    runs = [found[name][0] for name in sorted(found) if name.startswith("repeat-")]
    for a, b in pairwise(runs):
        yield repeated(a, b)
    for r in found.get("decode", []):
        if r.settings.context and r.baseline:
            yield decoded(r)
    for name, met in (("tests.txt", True), ("tests.txt.failed", False)):
        if (folder / name).is_file():
            last = (folder / name).read_text(encoding="utf-8").strip().splitlines()[-1:]
            seen = last[0].strip("= ") if last else "no output"
            yield Aim("tests that need a GPU", "none fails, none is skipped", seen, met and "skipped" not in seen)
    if (folder / "llama.json").is_file():
        document = json.loads((folder / "llama.json").read_text(encoding="utf-8"))
        for mode in ("forward", "train"):
            d = document[mode]
            about = f"ours / transformers {document['transformers']} Llama, {mode}, {document['dtype']}, batch {document['batch']}"
            seen = f"{ratio(d['time_ratio'])} ({between(d['interval'])})"
            # Not slower: the interval reaches 1 or lies below.
            yield Aim(about, "no slower: interval not above 1", seen, d["time_ratio"] <= LLAMA or bool(d["interval"] and d["interval"][0] <= LLAMA))
    for name, read in (("startup", counting), ("check_many", checking), ("search_speed", searching)):
        if (folder / f"{name}.json").is_file():
            yield from read(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))


def savings(records: list[Result]) -> Iterator[Aim]:
    for r in records:
        aim = SAVING[r.mode]
        saving = r.baseline.realised_saving
        seen = f"{ratio(saving)} ({between(r.baseline.realised_saving_interval)})"
        yield Aim(f"realised saving, {r.spec}, {r.mode}, batch {r.settings.batch}", f"at least {aim:.2f}", seen, saving >= aim)


def gpu_pairs(records: list[Result]) -> Iterator[Aim]:
    largest = max(records, key=lambda r: r.settings.batch)
    b = largest.baseline
    about = f"{largest.spec}, {how(largest.settings)}, batch {largest.settings.batch}"
    limit = b.flop_ratio + SLACK
    seen = ratio(b.time_ratio) + (f"; alone {ratio(largest.alone_ratio)}" if largest.alone_ratio else "")
    yield Aim(f"time ratio, {about}", f"at most FLOP ratio + {SLACK} = {ratio(limit)}", seen, b.time_ratio <= limit)
    if b.mfu is not None:
        big = b.params >= 9e8
        yield Aim(
            f"dense MFU, {b.spec}, {how(largest.settings)}",
            f"at least {share(MFU)}" if big else "reported",
            share(b.mfu),
            b.mfu >= MFU if big else None,
        )


def decoded(r: Result) -> Aim:
    rates = [r.tokens_per_s / r.settings.batch, r.baseline.tokens_per_s / r.settings.batch]
    about = f"decode, {r.spec} and {r.baseline.spec}, batch {r.settings.batch}, {r.settings.context:,} tokens cached"
    seen = f"{rates[0]:,.1f} and {rates[1]:,.1f} steps/s; time ratio {ratio(r.baseline.time_ratio)}, bytes {ratio(r.byte_ratio)}"
    return Aim(about, "reported", seen, None)


def itself(r: Result) -> Aim:
    ends = r.baseline.time_ratio_interval
    met = bool(ends and ends[0] <= 1 <= ends[1])
    return Aim(f"{r.spec} against itself, {r.mode}", "the interval contains 1", f"{ratio(r.baseline.time_ratio)} ({between(ends)})", met)


def themselves(again: list[Result], builds: int) -> Aim:
    met = [itself(r).met for r in again if r.baseline.time_ratio_interval]
    ratios = [r.baseline.time_ratio for r in again]
    seen = f"{sum(met)} of {len(met)} runs; time ratios {ratio(min(ratios))} to {ratio(max(ratios))}"
    sure = again[0].baseline.confidence
    aim = f"{share(sure)} of the intervals contain 1" if sure else "the intervals contain 1"
    built = f"built {builds} times" if builds else "built once"
    return Aim(f"{again[0].spec} against itself, {again[0].mode}, {built}, {len(met)} runs", aim, seen, None)


def attributed(r: Result, a: Attribution) -> Aim:
    # The lines `other` and `idle` are what is left to the step.
    parts = sum(line.time_s for line in a.lines if line.label not in ("other", "idle"))
    off, slower = parts / a.unprofiled_s - 1, a.step_time_s / a.unprofiled_s - 1
    seen = f"{100 * off:+.1f} %; the profiler's own {100 * slower:+.1f} %; routing overhead {share(a.routing_share)}; step {seconds(a.unprofiled_s)}"
    return Aim(f"attribution of {a.spec}, {r.mode}", f"components sum to the step without profiler within {share(SUM)}", seen, abs(off) <= SUM)


def repeated(a: Result, b: Result) -> Aim:
    change = b.step_time_s.median / a.step_time_s.median - 1
    seen = f"{seconds(a.step_time_s.median)} and {seconds(b.step_time_s.median)}: {100 * change:+.2f} %"
    return Aim(f"two runs of the same command, {a.spec}, {a.mode}", f"medians within {share(REPEAT)}", seen, abs(change) <= REPEAT)


def counting(d: dict) -> Iterator[Aim]:
    start, account, count = d["startup"], d["account"], d["count"]
    yield Aim("flops --count analytic over import typer, yaml", f"at most {start['limit']} x", f"{start['ratio']:.2f} x", start["ok"])
    slowest = max(account["median_s"].values())
    yield Aim("account() of a spec of 126 layers", f"at most {seconds(account['limit_s'])}", seconds(slowest), account["ok"])
    seen = f"{seconds(count['count_s'])}, {count['peak_memory_bytes'] / 1e9:.2f} GB"
    yield Aim("fvcore count of 405B parameters", f"under {count['limit_s']:g} s and {count['limit_bytes'] / 1e9:g} GB", seen, count["ok"])


def checking(d: dict) -> Iterator[Aim]:
    yield Aim(f"check of {d['specs']} specs over one", f"at most {d['limit']:g} x", f"{d['ratio']:.2f} x", d["ok"])


def searching(d: dict) -> Iterator[Aim]:
    rate, memory = d["candidates_per_s"], d["peak_memory_bytes"]
    aim = f"at least {rate['at_least'] / 1e6:g} M/s, under {memory['below'] / 1e9:g} GB"
    yield Aim(f"search of {d['candidates']:,} shapes on one core", aim, f"{rate['median'] / 1e6:.1f} M/s, {memory['value'] / 1e9:.2f} GB", d["ok"])


def clocks(devices: list[Device]) -> list[str]:
    """The range of the clocks while measuring: a GPU lowers its own under heavy work."""
    seen = [d.clocks for d in devices if d.clocks and d.clocks.sm_mhz]
    if not seen:
        return []
    slowest, fastest = min(c.sm_mhz for c in seen), max(c.sm_mhz for c in seen)
    return [f"SM clock {slowest:,} to {fastest:,} of {seen[0].sm_max_mhz:,} MHz, by the work"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    found = results(folder)
    rows = [[a.what, a.aim, a.seen, {True: "yes", False: "no", None: ""}[a.met]] for a in aims(folder, found)]
    if not found and not rows and not (folder / "peaks.json").is_file():
        parser.error(f"{folder}: no results there; benchmarks/cpu.sh and benchmarks/gpu.sh write them")
    headline = []
    if found:
        one = next(iter(found.values()))[0]
        headline += [
            f"{device_line(msgspec.structs.replace(one.device, clocks=None))}; torch {one.torch}; {one.time[:10]}",
            *clocks([r.device for records in found.values() for r in records]),
            *([f"driver {one.device.driver}"] if one.device.driver else []),
        ]
    reached = [] if not (folder / "peaks.json").is_file() else [json.loads((folder / "peaks.json").read_text(encoding="utf-8"))["reached"]]
    headline += [f"reached: {r['flops_per_s'] / 1e12:.1f} TFLOP/s, {r['bytes_per_s'] / 1e12:.2f} TB/s ({r['source']})" for r in reached]
    checks = Table(columns=(Column("what"), Column("aim"), Column("seen"), Column("met")), rows=rows, title="Aims", headline=headline)
    tables = [checks] if rows or headline else []
    if records := pairs(found):
        tables.append(compared(records))
    text = "\n".join(markdown(table) for table in tables)
    (folder / "summary.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

"""Cells, notes, bars and points against the record, bill or search that they show: what stands under a title is what the title says."""

import csv
import io
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modcalc.cost.account import account
from modcalc.measure.hardware import Peak
from modcalc.measure.records import Attribution, Line, Ranks, Result
from modcalc.measure.results import read_results
from modcalc.render.numbers import ratio
from modcalc.render.points import device_line, headline
from modcalc.render.profile import attribution, ranks, times
from modcalc.spec.load import load
from modcalc.units import binary_bytes, seconds

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
TRAIN = RESULTS / "nvidia-h200-2026-11-26" / "train.jsonl"


@pytest.fixture
def trained() -> list[Result]:
    return [record for record in read_results(TRAIN).records.values() if isinstance(record, Result)]


def test_step_times(modcalc: Callable, trained: list[Result]) -> None:
    """Of train steps of a GPU, where no two of these are equal."""
    rows = [row for row in csv.DictReader(io.StringIO(modcalc("results", TRAIN, "-f", "csv")[1].split("\n\n")[0])) if row["status"] == "ok"]
    models = [m for r in trained for m in (r, r.baseline)]
    for row, m in zip(rows, models, strict=True):
        t = m.step_time_s
        shown = dict(
            step_s=t.median, p25_s=t.p25, p75_s=t.p75, n=t.n, warm_up_s=m.warmup.seconds, first_step_s=m.warmup.first_step_s,
            tokens_per_s=m.tokens_per_s, flops_per_s=m.flops_per_s, mfu=m.mfu, hfu=m.hfu, peak_memory_bytes=m.peak_memory_bytes,
            reserved_bytes=m.memory.reserved, joules_per_token=m.energy.joules_per_token,
        )  # fmt: skip
        assert len({*shown.values()}) == len(shown) and {name: float(row[name]) for name in shown} == {k: float(v) for k, v in shown.items()}


def test_ranks(trained: list[Result]) -> None:
    found = Ranks(3, "gloo", "ddp", [0.3, 0.1, 0.2], 0.25, 0.05, 0.125, 0.0625)
    table = ranks([msgspec.structs.replace(trained[0], ranks=found)])
    shown = {column.title: cell for column, cell in zip(table.columns, table.rows[0], strict=True)}
    names = ("ranks", "fastest", "slowest", "skew", "communication", "exposed")
    assert [shown[name] for name in names] == [3, 0.1, 0.3, 0.25, 0.125, 0.0625]


@pytest.mark.parametrize("of", ["spec", "baseline"])
def test_what_the_profiler_adds_and_whose_steps_were_timed(trained: list[Result], of: str) -> None:
    r = trained[0]
    line = Line("mlp", 0.01, 0.5, 10, 1000.0)
    own = Attribution(
        spec=r.spec if of == "spec" else r.baseline.spec, by="component", step_time_s=0.03, unprofiled_s=0.02, lines=[line], routing=[line],
        routing_s=0.01, routing_share=0.5,
    )  # fmt: skip
    notes = "\n".join(attribution(own.spec, own, r).notes)
    assert "the profiler's own +50.0 % is taken off" in notes and "routing overhead (in the lines above): 10 ms, 50.0 % of the step" in notes
    assert f"took {seconds((r if of == 'spec' else r.baseline).step_time_s.median)}" in notes


def test_how_much_of_a_components_time_its_flops_or_bytes_need(trained: list[Result]) -> None:
    """By the datasheet, or, where that has no bandwidth, by what was reached; nothing where neither is known, or the bytes are not."""
    sheet, reached = Peak(1e9, 1e6, "a datasheet"), Peak(5e8, 1e5, "measured")
    lines = [Line("attention", 0.01, 0.25, 2e6, None, 1000), Line("mlp", 0.02, 0.5, 1e6, None, 5000), Line("other", 0.01, 0.25, 0, None)]
    own = Attribution(
        spec=trained[0].spec, by="component", step_time_s=0.04, unprofiled_s=0.04, lines=lines, routing=[], routing_s=0.0, routing_share=0.0
    )

    def shown(peak: Peak | None, reached: Peak | None = None, of: Attribution = own) -> list[Any] | None:
        table = attribution(own.spec, of, msgspec.structs.replace(trained[0], peak=peak, reached=reached))
        titles = [column.title for column in table.columns]
        assert len(table.total) == len(titles) and ("of roofline" in titles) == any("of roofline: " in note for note in table.notes)
        return [row[titles.index("of roofline")] for row in table.rows] if "of roofline" in titles else None

    assert shown(sheet, reached) == pytest.approx([0.2, 0.25, None]) and shown(Peak(1e9, None, "--peak-tflops"), reached) == [1.0, 2.5, None]
    assert shown(None) is shown(Peak(1e9, None, "--peak-tflops")) is None
    assert shown(sheet, of=msgspec.structs.replace(own, lines=[msgspec.structs.replace(line, bytes=None) for line in lines])) is None


def test_lines_above_a_table(trained: list[Result]) -> None:
    on_cpu = msgspec.structs.replace(trained[0].device, type="cpu", name="a processor", cores=8, threads=3, keeps_freed=False)
    assert device_line(on_cpu) == "a processor, 3 of 8 cores"
    # No-op experts of the baseline alone.
    sampled = msgspec.structs.replace(trained[0], settings=msgspec.structs.replace(trained[0].settings, mode="prefill"))
    guessed = msgspec.structs.replace(sampled, baseline=msgspec.structs.replace(sampled.baseline, expectation=True))
    said = "no-op experts are counted by their share"
    assert [any(line.startswith(said) for line in headline([r])) for r in (guessed, sampled)] == [True, False]


def test_small_ratios() -> None:
    assert (ratio(0.0003), ratio(0.00004)) == ("0.0003", "< 0.0001")


def test_bills(modcalc: Callable) -> None:
    """Columns of a table of FLOPs: two sequences already have a cost of one, and only a convention of its own is said to be held against another."""
    document = modcalc("flops", "dense-60m", "--count", "analytic", "--batch", "2", "-f", "csv")[1]
    rows = list(csv.DictReader(io.StringIO(document)))
    assert all(Fraction(row["forward_flops"]) == 2 * Fraction(row["flops_per_sequence"]) for row in rows) and rows
    held = "they are held against convention matmul"
    assert held not in modcalc("flops", "mod-small", "--count", "fvcore")[1]
    assert held in modcalc("flops", "mod-small", "--count", "fvcore", "--causal", "half")[1]
    dense, routed = (modcalc("flops", name, "--phase", "decode", "--context", "8", "-f", "csv")[1] for name in ("dense-60m", "mod-60m"))
    assert "ratio_to_dense_twin" not in dense and "ratio_to_dense_twin" in routed


def test_hardware_flops(modcalc: Callable) -> None:
    d = modcalc("flops", "dense-60m", "--count", "analytic", "--backward", "-f", "json")[1]
    more = json.loads(d)["hardware"]["train_step"] / account(load("dense-60m")).flops.train_step - 1
    assert f"{100 * more:.1f} % more than the model's" in modcalc("flops", "dense-60m", "--count", "analytic", "--backward")[1]


def test_memory(modcalc: Callable) -> None:
    d = json.loads(modcalc("memory", "mod-60m", "-f", "json")[1])
    assert d["attention"] == "fused" and json.loads(modcalc("memory", "mod-60m", "--phase", "forward", "-f", "json")[1])["attention"] is None
    # Parts of a model beside others: states and the fp32 weights are the optimizer's.
    several = list(csv.DictReader(io.StringIO(modcalc("memory", "mod-60m", "dense-60m", "-f", "csv")[1].split("\n\n")[0])))
    parts = ("weights", "gradients", "optimizer", "activations", "at_the_peak")
    for row in several:
        assert sum(int(row[f"{part}_bytes"]) for part in parts) == int(row["total_bytes"]) == int(row["total_size_bytes"])
    # Ways to keep activations: what is computed again is part of the total.
    text = modcalc("memory", "mod-60m", "-f", "markdown")[1].partition("Ways to keep activations")[2]
    kept = json.loads(modcalc("memory", "mod-60m", "-f", "json")[1])["activations"]
    total = next(line for line in text.splitlines() if line.startswith("| **total**"))
    assert [cell.strip(" *") for cell in total.strip("|").split("|")[1:]] == [binary_bytes(way["kept"] + way["again"]) for way in kept]


class Drawn:
    """What was asked of matplotlib's axes: (name, arguments, options)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from matplotlib.axes import Axes

        self.calls: list[tuple[str, tuple, dict]] = []
        for name in ("errorbar", "plot", "bar", "annotate"):
            monkeypatch.setattr(Axes, name, self._noted(name, getattr(Axes, name)))

    def _noted(self, name: str, own: Callable) -> Callable:
        def call(axes: object, *args: object, **options: object) -> object:
            self.calls.append((name, args, options))
            return own(axes, *args, **options)

        return call

    def of(self, name: str) -> list[tuple[tuple, dict]]:
        return [(args, options) for called, args, options in self.calls if called == name]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    pytest.importorskip("matplotlib")
    return Drawn(monkeypatch)


def test_a_plot_of_step_times(modcalc: Callable, trained: list[Result], drawn: Drawn, tmp_path: Path) -> None:
    assert modcalc("results", TRAIN, "--only", "spec=mod-220m", "--plot", tmp_path / "p.svg")[0] == 0
    points = sorted((r for r in trained if r.spec == "mod-220m"), key=lambda r: r.settings.batch)
    (x, y), options = next((args, options) for args, options in drawn.of("errorbar") if options["label"] == "mod-220m")
    t = [r.step_time_s for r in points]
    assert (x, y) == ([4, 16], [one.median for one in t])
    assert options["yerr"] == [[one.median - one.p25 for one in t], [one.p75 - one.median for one in t]]
    dashed = [args for args, options in drawn.of("plot") if options.get("linestyle") == "--"]
    assert ([4, 16], [r.flops.step for r in points]) in dashed and all(r.flops.step < r.flops.hardware for r in points)


def test_plots_of_bars(modcalc: Callable, drawn: Drawn, tmp_path: Path) -> None:
    assert modcalc("memory", "dense-60m", "dense-1b", "--plot", tmp_path / "p.svg")[0] == 0
    d = [json.loads(modcalc("memory", name, "-f", "json")[1])["bytes"] for name in ("dense-60m", "dense-1b")]
    heights = {options["label"]: args[1] for args, options in drawn.of("bar")}
    totals = [one["total"] for one in d]
    assert [sum(one) for one in zip(*heights.values(), strict=True)] == totals, "every part, activations of all components in one"
    said = [args[0] for args, _ in drawn.of("annotate")]
    assert any(f"\n{totals[1] / totals[0]:,.1f} x the first" in text for text in said)


def test_a_plot_of_a_search_shows_what_is_ok(modcalc: Callable, drawn: Drawn, tmp_path: Path) -> None:
    words = ("isoflop", "dense-60m", "--budget", "1e18", "--tokens-per-param", "10:40", "--limit", "20")
    d = json.loads(modcalc(*words, "-f", "json")[1])
    fine = sorted(c["params"] for c in d["candidates"] if c["status"] == "OK")
    assert modcalc(*words, "--plot", tmp_path / "p.svg")[0] == 0 and 0 < len(fine) < len(d["candidates"])
    (x, _), _ = next((args, options) for args, options in drawn.of("plot") if options.get("marker") == "o")
    assert [*x] == fine


def test_no_baseline_takes_over_what_was_compiled() -> None:
    r = next(r for r in read_results(TRAIN).records.values() if isinstance(r, Result))
    compiled = msgspec.structs.replace(r, settings=msgspec.structs.replace(r.settings, compile=True))
    alone = msgspec.structs.replace(compiled, baseline=None)
    assert ["takes over" in times([one]).notes[0] for one in (compiled, alone)] == [True, False]

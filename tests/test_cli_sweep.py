"""`modcalc flops --sweep`: each point is what one command bills, side by side."""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from modcalc.cost.account import account, dense_twin
from modcalc.cost.memory import kv_cache_bytes
from modcalc.cost.roofline import Roof, roofline
from modcalc.render import plot_sweep
from modcalc.spec.load import load

ANALYTIC = ("--count", "analytic")


def tables(out: str) -> list[list[dict[str, str]]]:
    return [list(csv.DictReader(io.StringIO(part))) for part in out.split("\n\n")]


@pytest.mark.parametrize("work", [("--gpu", "h200"), ("--phase", "decode", "--context", 9, "--gpu", "h200"), ("--backward", "--tokens", "1M")])
def test_reports_are_those_of_single_points(flops, tiny_mod: Path, tiny: Path, work: tuple) -> None:
    asked = (*work, *ANALYTIC, "-f", "json")
    points = [flops(tiny_mod, tiny, *asked, "--batch", n).document["reports"] for n in (1, 3)]
    assert flops(tiny_mod, tiny, *asked, "--sweep", "batch=1,3").document["reports"] == [of[i] for i in (0, 1) for of in points]
    (alone,) = flops(tiny_mod, *asked, "--sweep", "batch=2").document["reports"]
    assert flops(tiny_mod, *asked, "--batch", 2).document == {"schema": 1} | alone


def test_one_model_stands_against_its_twin_at_each_point(flops, tiny_mod: Path) -> None:
    spec = load(str(tiny_mod))
    asked = (tiny_mod, *ANALYTIC, "--sweep", "batch=2,1", "--sweep", "seq-len=8,16")
    (rows,) = tables(flops(*asked, "-f", "csv").out)
    assert [(row["batch"], row["seq_len"]) for row in rows] == [("2", "8"), ("2", "16"), ("1", "8"), ("1", "16")]
    for row in rows:
        point = {"batch": int(row["batch"]), "seq_len": int(row["seq_len"])}
        own, twin = account(spec, **point), account(dense_twin(spec), **point)
        assert int(row["forward_flops"]) == own.flops.forward and float(row["forward_flops_per_token"]) == own.flops.forward_per_token
        assert float(row["ratio_to_dense_twin"]) == pytest.approx(own.flops.forward / twin.flops.forward, rel=1e-15)
    out = flops(*asked).out
    assert out.startswith("tiny-mod\nforward: B sequences of T tokens\n") and "over those of the dense twin at the same point\n" in out
    (trained,) = tables(flops(*asked, "--backward", "-f", "csv").out)
    assert [int(row["train_step_flops"]) for row in trained] == [
        account(spec, batch=int(row["batch"]), seq_len=int(row["seq_len"])).flops.train_step for row in rows
    ]


def test_several_models_stand_against_the_first_at_each_point(flops, tiny: Path, tiny_mod: Path) -> None:
    asked = (tiny, tiny_mod, *ANALYTIC, "--sweep", "seq-len=8,16")
    (rows,) = tables(flops(*asked, "-f", "csv").out)
    assert [(row["spec"], row["seq_len"]) for row in rows] == [("tiny", "8"), ("tiny", "16"), ("tiny-mod", "8"), ("tiny-mod", "16")]
    forward = [account(load(str(path)), seq_len=T).flops.forward for path in (tiny, tiny_mod) for T in (8, 16)]
    assert [float(row["ratio_to_first"]) for row in rows] == pytest.approx([1, 1, forward[2] / forward[0], forward[3] / forward[1]], rel=1e-15)
    assert "over those of tiny at the same point\n" in flops(*asked).out
    tiny_mod.write_text(tiny_mod.read_text().replace("seq_len: 16", "seq_len: 12"))
    own = flops(tiny, tiny_mod, *ANALYTIC, "--sweep", "batch=1,2").out
    assert "forward: B sequences of T tokens\n" in own and "over those of tiny at the same point; sequence lengths T differ\n" in own


def test_a_dense_model_has_nothing_to_stand_against(flops, tiny: Path) -> None:
    out = flops(tiny, *ANALYTIC, "--sweep", "batch=1,2", "--gpu", "h200").out
    assert "ratio" not in out and "1 sequence" not in out and "roofline of a forward step" in out


def test_sampling_with_caches_and_rooflines(flops, tiny_mod: Path) -> None:
    spec, roof = load(str(tiny_mod)), Roof(None, 1e9, 1e9, "")
    asked = (tiny_mod, "--phase", "decode", "--sweep", "context=5,9", "--batch", 3, "--peak-tflops", 0.001, "--gb-per-s", 1)
    rows, timed = tables(flops(*asked, "-f", "csv").out)
    for row, line in zip(rows, timed, strict=True):
        point = {"phase": "decode", "batch": 3, "context": int(row["context"])}
        own, twin = account(spec, **point), account(dense_twin(spec), **point)
        assert line["context"] == row["context"] and "batch" not in row
        assert float(row["kv_cache_bytes"]) == kv_cache_bytes(own.plan, point["context"] + 1, batch=3)
        assert float(row["ratio_to_dense_twin"]) == pytest.approx(float(own.flops.forward) / twin.flops.forward)
        steps = [roofline(one, roof).step_s for one in (own, twin)]
        assert float(line["step_s"]) == pytest.approx(steps[0]) and float(line["ratio_to_dense_twin"]) == pytest.approx(steps[0] / steps[1])
    out = flops(*asked).out
    assert "decode: 1 new token for 3 sequences after S cached\n" in out
    assert "with routing: expected, at the capacity's share\n" in out and "time ratio: to the dense twin at the same point;" in out
    assert out.count("routing, token by token") == 0  # cases are of one point


def test_training_runs_at_each_point(flops, tiny: Path) -> None:
    asked = (tiny, *ANALYTIC, "--backward", "--sweep", "seq-len=8,16", "--tokens", "1M", "--gpus", 1, "--peak-tflops", 1e-6, "--mfu", 0.5)
    (rows,) = tables(flops(*asked, "-f", "csv").out)
    for row in rows:
        assert float(row["device_hours"]) == pytest.approx(int(row["training_flops"]) / 5e5 / 3600)
    assert "training time" not in flops(*asked).out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--sweep", "batch=1,2", "--batch", "3"], "--batch: swept and given"),
        (["--sweep", "seq-len=1,2", "-T", "3"], "--seq-len: swept and given"),
        (["--sweep", "batch=1,2", "--by", "layer"], "--by with --sweep: it tells more of one point"),
        (["--sweep", "batch=1,2", "--backward", "--recompute", "full", "--attention", "fused"], "--attention, --recompute with --sweep"),
        (["--sweep", "seq-len=1,2", "--phase", "decode", "--context", "1"], "sweep context instead"),
        (["--sweep", "batch=1,2", "--phase", "decode"], "--phase decode: say how many tokens are already cached"),
        (["--sweep", "context=1,2"], "context 1: only the phases prefill and decode"),
        (["--sweep", "batch=1", "--sweep", "batch=2"], "batch, batch: swept twice"),
        (["--sweep", "bach=1"], "did you mean batch?"),
        (["--sweep", "seq-len=8,99999"], "99999 tokens are more than its 16 learned positions"),
    ],
)
def test_sweeps_that_mean_nothing(flops, tiny: Path, words: list[str], says: str) -> None:
    tiny.write_text(tiny.read_text() + ("positions: {kind: learned}\n" if "99999" in says else ""))
    done = flops(tiny, *words)
    assert done.code == 2 and says in done.err and not done.out


def test_counters_run_at_each_point_if_asked(flops, tiny: Path) -> None:
    pytest.importorskip("torch")
    asked = (tiny, "--sweep", "batch=1,2", "-f", "json")
    assert [r["agree"] for r in flops(*asked).document["reports"]] == [None, None]
    counted = flops(*asked, "--count", "torch").document["reports"]
    assert [r["counters"]["torch"] for r in counted] == [account(load(str(tiny)), batch=n).flops.forward for n in (1, 2)]
    out = flops(*asked[:-2], "--count", "torch").out
    assert "\ntiny, batch 1\n" in out and "\ntiny, batch 2\n" in out


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The axes that are drawn on."""
    pytest.importorskip("matplotlib")
    seen: list[Any] = []
    drawn = plot_sweep.figure

    @contextmanager
    def figure(*args: Any, **more: Any) -> Iterator[Any]:
        with drawn(*args, **more) as axes:
            seen.extend(axes.flat if hasattr(axes, "flat") else [axes])
            yield axes

    monkeypatch.setattr(plot_sweep, "figure", figure)
    return seen


def lines(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines() if not line.get_label().startswith("_")}


def test_the_plot_of_one_model(flops, tiny_mod: Path, tmp_path: Path, panels: list[Any]) -> None:
    asked = (tiny_mod, "--phase", "decode", "--sweep", "batch=4,1", "--sweep", "context=5", "--peak-tflops", 0.001, "--gb-per-s", 1)
    assert flops(*asked, "--plot", tmp_path / "a.svg").code == 0
    spec, roof = load(str(tiny_mod)), Roof(None, 1e9, 1e9, "")
    own, twin = ([account(one, phase="decode", context=5, batch=n) for n in (1, 4)] for one in (spec, dense_twin(spec)))
    flops_of, time_of = (
        [[float(cost(report)) for report in of] for of in (own, twin)] for cost in (lambda r: r.flops.forward, lambda r: roofline(r, roof).step_s)
    )
    for axes, costs in zip(panels, (flops_of, time_of), strict=False):
        assert lines(axes) == {"tiny-mod": ([1, 4], costs[0]), "tiny-mod: dense twin": ([1, 4], costs[1])}
    ratios = {name: ([1, 4], [a / b for a, b in zip(*costs, strict=True)]) for name, costs in (("time", time_of), ("FLOPs", flops_of))}
    assert lines(panels[2]) == {f"tiny-mod: {name}": found for name, found in ratios.items()}
    assert [axes.get_ylabel() for axes in panels] == ["expected FLOPs of a step", "least time of a step", "ratio to the dense twin at the same point"]


def test_the_plot_of_several_models(flops, tiny: Path, tiny_mod: Path, tmp_path: Path, panels: list[Any]) -> None:
    asked = (tiny, tiny_mod, *ANALYTIC, "--macs", "--backward", "--sweep", "seq-len=8,16", "--sweep", "batch=1,2")
    assert flops(*asked, "--plot", tmp_path / "a.svg").code == 0
    costs = {
        f"{path.stem}, T = {T}": [account(load(str(path)), seq_len=T, batch=n).flops.train_step / 2 for n in (1, 2)]
        for path in (tiny, tiny_mod)
        for T in (8, 16)
    }
    named = {label.replace("tiny_mod", "tiny-mod"): found for label, found in costs.items()}
    assert {label: y for label, (_, y) in lines(panels[0]).items()} == named
    assert lines(panels[1]).keys() == {"tiny-mod, T = 8: FLOPs", "tiny-mod, T = 16: FLOPs"}
    assert panels[0].get_ylabel() == "MACs of a step" and panels[1].get_ylabel() == "ratio to tiny at the same point" and len(panels) == 2


def test_the_plot_of_a_dense_model(flops, tiny: Path, tmp_path: Path, panels: list[Any]) -> None:
    assert flops(tiny, *ANALYTIC, "--sweep", "seq-len=8,16", "--plot", tmp_path / "a.svg").code == 0
    assert [list(lines(axes)) for axes in panels] == [["tiny"]]

"""The benchmark of decode against context: its points, their file, table and plot."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from benchmarks import decode_context
from modcalc.measure.records import Result
from modcalc.measure.results import ResultsFile

SPEC = """name: tiny
vocab_size: 50
seq_len: 32
d_model: 16
n_layers: 2
attention: {n_heads: 2}
mlp: {d_ff: 32}
mod: {capacity: 0.125}
"""


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> None:
    (folder / "tiny.yaml").write_text(SPEC)
    always = ["--device", "cpu", "--warmup", "1", "--out", str(folder / "decode.jsonl")]
    monkeypatch.setattr(sys, "argv", ["decode_context", str(folder / "tiny.yaml"), *always, *words])
    decode_context.main()


def test_every_point_is_kept_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, tmp_path, "--batch", "1,3", "--contexts", "0,40", "-n", "6")
    out = capsys.readouterr().out
    assert "dense" in out and "time ratio" in out and out.count("\n|") == 2 + 4
    records = list(ResultsFile(tmp_path / "decode.jsonl").records.values())
    assert [(r.settings.batch, r.settings.context) for r in records] == [(1, 0), (1, 40), (3, 0), (3, 40)]
    for r in records:
        assert isinstance(r, Result) and r.mode == "decode" and r.dtype == "fp32" and r.device.type == "cpu" and r.torch
        assert len(r.step_time_s.samples) == len(r.baseline.step_time_s.samples) == 6
        assert r.spec == "tiny" and r.baseline.flop_ratio < 1
        assert r.byte_ratio == r.step_bytes / r.baseline.step_bytes and f"{r.byte_ratio:.4f} |" in out
    plot = (tmp_path / "decode.svg").read_text()
    for text in ("Time per token against context", "tokens cached", "dense, batch 1", "MoD, batch 3", "FLOPs, batch 3", "bytes, batch 3"):
        assert text in plot

    size = (tmp_path / "decode.jsonl").stat().st_size
    run(monkeypatch, tmp_path, "--batch", "1,3", "--contexts", "0,40", "-n", "6")
    assert (tmp_path / "decode.jsonl").stat().st_size == size  # nothing was measured again
    assert capsys.readouterr().out == out


@pytest.mark.parametrize("words, text", [(("--contexts", "1,x"), "'x' is no whole number"), (("--batch", "0"), "batch 0: at least 1")])
def test_what_it_refuses(
    words: tuple[str, ...], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, tmp_path, *words)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith("error: ") and text in said and said.count("\n") == 1

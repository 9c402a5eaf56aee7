"""`modcalc flops` with counters: what they say, where they fail or are missing, and what an analytic run does not load."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from modcalc.cost.ops import Linear
from modcalc.errors import CountFailed
from modcalc.measure import agreement, counters

torch_installed = pytest.mark.skipif(counters.installed() != ["fvcore", "torch"], reason="needs torch and fvcore")


@torch_installed
def test_counters_agree(flops, tiny_mod: Path) -> None:
    ran = flops(tiny_mod)
    forward = flops(tiny_mod, "--count", "analytic", "--format", "json").document["flops"]["forward"]
    assert ran.code == 0
    for counter in ("fvcore", "torch"):
        assert f"{counter}: {forward:,} FLOPs, equal to the ledger in total and in every module" in ran.out
        assert f"counting by {counter}" in ran.err
    assert ran.out.count("at no cost: ") == 2 and "gather" in ran.out.split("at no cost: ")[1]
    d = flops(tiny_mod, "--count", "all", "--format", "json").document
    assert d["counters"] == {"analytic": forward, "fvcore": forward, "torch": forward} and d["agree"] is True
    assert [v["differences"] for v in d["counting"]] == [[], []]


@torch_installed
def test_one_counter_only(flops, tiny: Path) -> None:
    d = flops(tiny, "--count", "torch", "--format", "json").document
    assert d["counters"]["fvcore"] is None and d["counters"]["torch"] == d["flops"]["forward"] and d["agree"] is True


@torch_installed
@pytest.mark.parametrize("how", [["--backward"], ["--phase", "train"]])
def test_the_train_step_is_counted_too(flops, tiny: Path, how: list[str]) -> None:
    d = flops(tiny, "--count", "torch", "--format", "json", *how).document
    assert [(v["of"], v["counted"]) for v in d["counting"]] == [("forward", d["flops"]["forward"]), ("train_step", d["flops"]["train_step"])]
    assert "FLOPs train step, equal to the ledger" in flops(tiny, "--count", "torch", *how).out


@torch_installed
def test_counters_see_every_product_in_full(flops, tiny: Path) -> None:
    full = flops(tiny, "--count", "analytic", "--format", "json").document["flops"]["forward"]
    ran = flops(tiny, "--count", "torch", "--causal", "half")
    assert ran.code == 0
    assert f"held against convention matmul, causal full: {full:,} FLOPs forward" in ran.out
    assert flops(tiny, "--count", "torch", "--causal", "half", "--format", "json").document["counters"]["analytic"] == full


@torch_installed
def test_a_broken_formula_is_caught_and_the_modules_named(flops, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Linear.macs

    def wrong(self: Linear, causal: str = "full") -> int:
        return right(self, causal) + (7 * self.repeat if self.path.endswith("down_proj") else 0)

    monkeypatch.setattr(Linear, "macs", wrong)
    for counter in ("fvcore", "torch"):
        ran = flops(tiny, "--count", counter)
        assert ran.code == 1
        assert "-42" in ran.out and "modules that differ: 3" in ran.out
        assert re.findall(r"^(blocks\.\d\.mlp\.down_proj) .* -14$", ran.out, re.MULTILINE) == [f"blocks.{i}.mlp.down_proj" for i in range(3)]
    d = flops(tiny, "--format", "json")
    assert d.code == 1 and d.document["agree"] is False
    assert [x["path"] for x in d.document["counting"][0]["differences"]] == [f"blocks.{i}.mlp.down_proj" for i in range(3)]


@torch_installed
@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (CountFailed("aten::odd is not known", {"aten::odd": 2}), "aten::odd is not known"),
        (RuntimeError("out of luck\nframe #43: what nobody reads"), "RuntimeError: out of luck"),
    ],
)
def test_a_counter_that_fails_keeps_the_analytic_result(flops, tiny: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, said: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(agreement, "count", fail)
    ran = flops(tiny, "--count", "torch")
    assert ran.code == 1
    assert "total " in ran.out and f"torch: failed: {said}\n" in ran.out
    assert ("not seen: odd" in ran.out) == isinstance(failure, CountFailed)
    d = flops(tiny, "--count", "torch", "--format", "json").document
    assert d["counters"]["torch"] is None and d["agree"] is None and d["flops"]["forward"] == d["counters"]["analytic"]
    assert d["counting"][0]["reason"] == said


@torch_installed
def test_what_a_failed_counter_is_held_against(flops, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger's count of the same pass, as counters count, whatever the convention of the report."""
    right = flops(tiny, "--count", "analytic", "--format", "json").document["flops"]

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(agreement, "run", fail)
    d = flops(tiny, "--count", "torch", "--backward", "--convention", "6nd", "--format", "json").document
    assert [(v["analytic"], v["reason"]) for v in d["counting"]] == [(right[of], "MemoryError") for of in ("forward", "train_step")]
    assert d["agree"] is None and d["flops"]["forward"] != right["forward"]


@torch_installed
def test_several_specs_are_each_counted(flops, tiny: Path, tiny_mod: Path) -> None:
    ran = flops(tiny, tiny_mod, "--count", "torch")
    assert ran.code == 0 and ran.out.count("equal to the ledger") == 2


def python(before: str, *arguments: object, after: str = "pass") -> subprocess.CompletedProcess[str]:
    """`modcalc flops` in a process of its own, with some code before and after it."""
    program = f"import sys\n{before}\nfrom modcalc.cli import app\ntry:\n    app.main()\nfinally:\n    {after}"
    return subprocess.run([sys.executable, "-c", program, "flops", *map(str, arguments)], capture_output=True, text=True, timeout=120)


HEAVY = ["torch", "fvcore", "numpy", "rich", "tabulate", "matplotlib", "modcalc.measure", "modcalc.models"]


@pytest.mark.parametrize("format", ["plain", "json", "csv"])
def test_what_an_analytic_run_does_not_load(format: str) -> None:
    look = f"print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    done = python("", "mod-220m", "--count", "analytic", "--format", format, after=look)
    assert done.returncode == 0 and "147975045120" in done.stdout.replace(",", " ").replace(" ", "")
    assert done.stderr.splitlines()[-1] == "[]"


def test_without_torch(tiny: Path) -> None:
    gone = "sys.modules['torch'] = sys.modules['fvcore'] = None"
    done = python(gone, tiny)
    assert done.returncode == 0 and "total" in done.stdout and "fvcore:" not in done.stdout
    for counter in ("fvcore", "torch", "all"):
        done = python(gone, tiny, "--count", counter)
        assert (done.returncode, done.stdout) == (2, "")
        assert "pip install 'modcalc[torch]'" in done.stderr and "Traceback" not in done.stderr


@torch_installed
def test_without_fvcore_torch_still_counts(tiny: Path) -> None:
    gone = "sys.modules['fvcore'] = None"
    done = python(gone, tiny)
    assert done.returncode == 0 and "torch: " in done.stdout and "fvcore: " not in done.stdout
    assert python(gone, tiny, "--count", "all").returncode == 2


@torch_installed
def test_no_library_talks_between_the_lines(tiny: Path) -> None:
    done = python("import warnings; warnings.filterwarnings('always', message='`torch.jit')", tiny, "--count", "fvcore")
    assert done.returncode == 0 and "Warning" not in done.stderr


def test_an_interrupt_keeps_what_was_printed(flops, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(agreement, "run", interrupt)
    monkeypatch.setattr(counters, "installed", lambda: ["torch"])
    ran = flops(tiny)
    assert ran.code == 130 and "total " in ran.out
    ran = flops(tiny, "gpt2", "--format", "json")
    assert ran.code == 130 and [(r["spec"], r["agree"], r["counters"]["torch"]) for r in ran.document["reports"]] == [
        ("tiny", None, None), ("gpt2", None, None)
    ]  # fmt: skip

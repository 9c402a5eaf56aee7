"""The shipped specs: shapes, published numbers, pairs; and `modcalc specs`."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from modcalc.cli import app
from modcalc.cost.account import account, dense_twin
from modcalc.spec.load import dump, load, loads, shipped_specs
from modcalc.spec.resolve import resolve

ROOT = Path(__file__).parent.parent
PAIRS = {"60m": (512, 14, 64), "220m": (896, 20, 64), "1b": (2048, 18, 128), "3b": (2560, 36, 128)}
# Parameters: of the papers' own classes for GPT-2 and Llama-2 (config.json named in each spec); Petty et al. by 2 V D + L (4 D^2 + 3 D F).
PARAMS = {
    "gpt2": 124_439_808,
    "llama-2-7b": 6_738_415_616,
    "petty-41m": 41_287_680,
    "petty-134m": 134_283_264,
    "petty-374m": 374_079_488,
}
FORWARD = {"gpt2": 291_648_307_200, "llama-2-7b": 62_921_270_886_400, "dense-small": 4_557_111_296, "mod-small": 2_619_342_848 + 524_288}


def test_the_list_is_complete() -> None:
    assert set(shipped_specs()) == {f"{kind}-{size}" for kind in ("dense", "mod") for size in (*PAIRS, "small")} | set(PARAMS)


@pytest.mark.parametrize("name", sorted(shipped_specs()))
def test_each_is_named_sourced_and_loads_back(name: str) -> None:
    spec = load(name)
    assert spec.name == name and spec.source
    assert loads(dump(spec)) == spec


@pytest.mark.parametrize("name", PARAMS)
def test_published_parameters(name: str) -> None:
    assert account(load(name)).params.total == PARAMS[name]


@pytest.mark.parametrize("name", FORWARD)
def test_forward_flops_per_sequence(name: str) -> None:
    assert account(load(name)).flops.forward == FORWARD[name]


def test_the_worked_example_shows_its_routers_apart() -> None:
    lines = {line.label: line for line in account(load("mod-small")).lines("component")}
    assert lines["router"].forward == 524_288 and lines["router"].params == 512
    assert {i: r.capacity for i, r in resolve(load("mod-small")).routed.items()} == {1: 64, 3: 64}


@pytest.mark.parametrize("size", [*PAIRS, "small"])
def test_a_pair_has_one_shape(size: str) -> None:
    dense, mod = load(f"dense-{size}"), load(f"mod-{size}")
    same = dict(name="", source=None, budget=None)
    assert msgspec.structs.replace(dense_twin(mod), **same) == msgspec.structs.replace(dense, **same)
    assert resolve(mod).routed and not resolve(dense).routed


@pytest.mark.parametrize("size", PAIRS)
def test_sizes_and_routing_of_the_paper(size: str) -> None:
    """Named sizes within 4 %, and 256 of 2048 tokens in every other block (arXiv 2404.02258, section 4)."""
    dense, plan = load(f"dense-{size}"), resolve(load(f"mod-{size}"))
    D, L, N = PAIRS[size]
    assert (dense.d_model, dense.n_layers, plan.blocks[0].attention.head_dim, plan.blocks[0].ffn.d_ff) == (D, L, N, 4 * D)
    total = account(dense).params.total
    assert abs(total / {"60m": 60e6, "220m": 220e6, "1b": 1e9, "3b": 3e9}[size] - 1) < 0.04
    assert list(plan.routed) == list(range(1, L, 2)) and {r.capacity for r in plan.routed.values()} == {256}
    ratio = account(load(f"mod-{size}")).flops.forward / account(dense).flops.forward
    assert ratio > 1 - 0.492, "no same-shape MoD saves more than 49.2 % of its blocks"


def test_each_file_of_a_pair_says_whose_shape_it_is() -> None:
    for size in PAIRS:
        for kind in ("dense", "mod"):
            text = shipped_specs()[f"{kind}-{size}"].read_text()
            assert "print no shapes" in text and "arXiv 2404.02258" in text and "our choice" in text


def run(*args: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    monkeypatch.setattr("sys.argv", ["modcalc", *args])
    with pytest.raises(SystemExit) as stop:
        app.main()
    out, err = capsys.readouterr()
    assert stop.value.code == 0 and err == ""
    return out


def test_specs_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    document = json.loads(run("specs", "--format", "json", monkeypatch=monkeypatch, capsys=capsys))
    assert document["schema"] == 1 and document["convention"]["name"] == "matmul"
    by_name = {entry["name"]: entry for entry in document["specs"]}
    assert set(by_name) == set(shipped_specs())
    assert by_name["gpt2"] == dict(
        name="gpt2", seq_len=1024, params=PARAMS["gpt2"], forward_flops=FORWARD["gpt2"], n_layers=12, routed_blocks=[], source=load("gpt2").source
    )
    assert by_name["mod-small"]["routed_blocks"] == [1, 3]
    sizes = [entry["params"] for entry in document["specs"]]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("look", ["plain", "table", "markdown"])
def test_specs_table(look: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    out = run("specs", "--format", look, monkeypatch=monkeypatch, capsys=capsys)
    assert "convention matmul" in out
    row = next(line for line in out.splitlines() if "gpt2" in line)
    assert "124,439,808" in row and "291.65 G" in row and "1,024" in row
    assert "2 of 4" in next(line for line in out.splitlines() if "mod-small" in line)


def test_the_schema_command_prints_one_document(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    schema = json.loads(run("schema", monkeypatch=monkeypatch, capsys=capsys))
    assert schema["$schema"].endswith("2020-12/schema") and "Mod" in schema["$defs"]


def test_reading_a_spec_loads_nothing_heavy() -> None:
    code = (
        "import sys; from modcalc.spec.load import load; load('mod-220m')\n"
        "heavy = {'torch', 'numpy', 'rich', 'tabulate', 'matplotlib', 'fvcore', 'hypothesis'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)


def test_a_checkout_is_whole_without_being_installed() -> None:
    """Python started in it imports its folder modcalc, beside which models/ and specs/ stand."""
    code = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'ditable' not in getattr(f, '__name__', '')]; "
        "import modcalc.specs, modcalc; print(modcalc.specs.__file__, len(modcalc.load('mod-small').name))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == f"{ROOT / 'specs' / '__init__.py'} 9\n", done.stderr

"""Published FLOPs, each with its citation in data/published_flops.yaml."""

from fractions import Fraction
from pathlib import Path

import msgspec
import pytest
import yaml

from modcalc import account, load
from modcalc.cost.conventions import CONVENTIONS, find_convention
from modcalc.cost.ops import Lookup
from modcalc.spec.schema import Spec

PUBLISHED = yaml.safe_load((Path(__file__).parent / "data" / "published_flops.yaml").read_text(encoding="utf-8"))
RELATIVE = PUBLISHED["relative_difference"]
A4 = PUBLISHED["chinchilla_table_a4"]
GPT3 = PUBLISHED["gpt3_table_d1"]
PALM = PUBLISHED["palm_540b"]


def decimals(x: Fraction, n: int) -> str:
    """x rounded to n decimals, as a reader rounds; a float would round some halves the other way."""
    scaled = x * 10**n
    whole = (abs(scaled) + Fraction(1, 2)).__floor__() * (-1 if scaled < 0 else 1)
    return f"{whole / 10**n:.{n}f}"


def dense(**fields: object) -> Spec:
    return msgspec.convert({"name": "published", **fields}, Spec)


@pytest.mark.parametrize("model", RELATIVE, ids=lambda m: m["spec"])
def test_exact_forward(model: dict) -> None:
    report = account(load(model["spec"]), seq_len=model["seq_len"])
    assert report.flops.forward == model["exact_forward"]


@pytest.mark.parametrize(
    ("model", "name"), [(m, name) for m in RELATIVE for name in m["percent"]], ids=lambda v: v if isinstance(v, str) else v["spec"]
)
def test_relative_difference_to_exact(model: dict, name: str) -> None:
    spec = load(model["spec"])
    exact, theirs = (account(spec, seq_len=model["seq_len"], phase="train", convention=c).flops.train_step for c in ("matmul", name))
    assert decimals(100 * (Fraction(theirs, exact) - 1), 2) == f"{model['percent'][name]:.2f}"


@pytest.mark.parametrize("row", A4["rows"], ids=lambda r: f"{r[0]}x{r[1]}")
def test_chinchilla_table_a4(row: list) -> None:
    L, D, F, H, N, printed = row
    T, V, width = A4["seq_len"], A4["vocab_size"], H * N
    spec = dense(
        vocab_size=V, seq_len=T, d_model=D, n_layers=L, attention=dict(n_heads=H, head_dim=N), mlp=dict(d_ff=F), norm=dict(affine=False)
    )  # fmt: skip
    params = V * D + L * (4 * D * width + 2 * D * F + D * width)
    ours = account(spec, phase="train", convention="chinchilla").flops.train_step
    assert decimals(Fraction(ours, 6 * params * T), 2) == f"{printed:.2f}"


@pytest.mark.parametrize("row", GPT3["rows"], ids=lambda r: f"{r['millions']}M")
def test_gpt3_table_d1(row: dict) -> None:
    """6 FLOPs per parameter and token: on the printed number of parameters, and on the model where its shape has as many."""
    rule = find_convention("6nd")
    table = Lookup(path="", component="", batch=1, tokens=1, length=1, rows=row["millions"], width=10**6)
    per_token = rule.forward(table) + rule.backward(table)
    assert f"{per_token * GPT3['tokens']:.2e}" == f"{float(row['flops']):.2e}"
    if "d_model" in row:
        D, T = row["d_model"], GPT3["seq_len"]
        spec = dense(
            vocab_size=GPT3["vocab_size"], seq_len=T, d_model=D, n_layers=row["n_layers"], attention=dict(n_heads=row["n_heads"], bias=True),
            mlp=dict(d_ff=4 * D, bias=True), norm=dict(kind="layernorm"), positions=dict(kind="learned"), head=dict(tied=True),
        )  # fmt: skip
        report = account(spec, phase="train", convention=rule)
        assert round(report.params.total / 10**8) == round(row["millions"] / 100)
        assert f"{report.flops.train_step * GPT3['tokens'] // T:.2e}" == f"{float(row['flops']):.2e}"


def test_palm_540b() -> None:
    """The query width H N differs from d_model."""
    spec = msgspec.convert(PALM["spec"], Spec)
    step = account(spec, phase="train", convention=PALM["convention"]).flops.train_step
    assert decimals(Fraction(step, spec.seq_len * 10**12), 2) == f"{PALM['tflop_per_token_trained']:.2f}"


def test_every_convention_is_named_once_and_cited() -> None:
    assert all(name == rule.name and rule.counts and rule.citation for name, rule in CONVENTIONS.items())
    assert set().union(*(m["percent"] for m in RELATIVE)) <= set(CONVENTIONS)

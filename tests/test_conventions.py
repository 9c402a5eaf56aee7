"""Each convention against its paper's closed form, written here independently of the ledger, as exact integers or Fractions."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modcalc import account
from modcalc.cost.convention import BASES, Term
from modcalc.cost.conventions import CONVENTIONS, MATMUL, find_convention
from modcalc.cost.survey import survey
from modcalc.errors import UsageError
from modcalc.spec.schema import Spec


@dataclass(frozen=True)
class Shape:
    """A dense decoder: letters as in the papers, H heads of N, K key/value heads, P learned positions (0: none)."""

    V: int
    T: int
    D: int
    L: int
    F: int
    H: int
    K: int
    N: int
    P: int = 0
    gated: bool = False
    tied: bool = False
    bias: bool = False
    layernorm: bool = False
    window: int | None = None

    @property
    def spec(self) -> Spec:
        fields = dict(
            name="shape", vocab_size=self.V, seq_len=self.T, d_model=self.D, n_layers=self.L,
            attention=dict(n_heads=self.H, n_kv_heads=self.K, head_dim=self.N, bias=self.bias, window=self.window),
            mlp=dict(d_ff=self.F, bias=self.bias, kind="gated" if self.gated else "plain"),
            norm=dict(kind="layernorm" if self.layernorm else "rmsnorm"),
            positions=dict(kind="learned", max_len=self.P) if self.P else dict(kind="none"),
            head=dict(tied=self.tied),
        )  # fmt: skip
        return msgspec.convert(fields, Spec)

    @property
    def matrices(self) -> int:
        """Entries of the matrices of one block."""
        q, kv, m = self.H * self.N, self.K * self.N, 3 if self.gated else 2
        return 2 * self.D * q + 2 * self.D * kv + m * self.D * self.F

    @property
    def params(self) -> int:
        norm = (2 if self.layernorm else 1) * self.D
        biases = self.H * self.N + 2 * self.K * self.N + self.D + (2 if self.gated else 1) * self.F + self.D
        block = self.matrices + 2 * norm + self.bias * biases
        return self.V * self.D * (1 if self.tied else 2) + self.P * self.D + self.L * block + norm

    @property
    def exact(self) -> int:
        """Forward FLOPs per token: 2 L (matrices) + 2 D V + 4 L T H N."""
        return 2 * self.L * self.matrices + 2 * self.D * self.V + 4 * self.L * self.T * self.H * self.N


GPT2 = Shape(V=50257, T=1024, D=768, L=12, F=3072, H=12, K=12, N=64, P=1024, tied=True, bias=True, layernorm=True)
LLAMA = Shape(V=32000, T=4096, D=4096, L=32, F=11008, H=32, K=32, N=128, gated=True)

# FLOPs per token trained, as printed where the convention is cited.
CLOSED: dict[str, Callable[[Shape], int | Fraction]] = {
    "matmul": lambda s: 3 * s.exact,
    "causal-half": lambda s: 3 * (s.exact - 2 * s.L * s.T * s.H * s.N),
    "causal-exact": lambda s: 3 * (s.exact - 4 * s.L * s.T * s.H * s.N) + 12 * s.L * s.H * s.N * Fraction(s.T + 1, 2),
    "6nd": lambda s: 6 * s.params,
    "kaplan": lambda s: 6 * (s.params - s.V * s.D * (1 if s.tied else 2) - s.P * s.D),
    "palm": lambda s: 6 * (s.params - s.P * s.D) + 12 * s.L * s.H * s.N * s.T,
    "chinchilla-printed": lambda s: 3 * (s.exact + 2 * s.V * s.D + 3 * s.H * s.T * s.L),
    "chinchilla": lambda s: 3 * (s.exact - 2 * s.V * s.D + 3 * s.H * s.T * s.L),
    "megatron-no-recompute": lambda s: 3 * s.exact,
    "megatron": lambda s: 4 * s.exact - 2 * s.V * s.D,
    "torchtitan": lambda s: 6 * (s.params - (0 if s.tied else s.V * s.D + s.P * s.D)) + 6 * s.L * s.H * 2 * s.N * s.T,
    "olmo-core": lambda s: 6 * (s.params - (0 if s.tied else s.V * s.D) - s.P * s.D) + 12 * s.L * s.H * s.N * min(s.window or s.T, s.T),
    "litgpt": lambda s: 3 * (2 * s.params + 4 * s.L * s.D * s.T),
    "lingua": lambda s: 6 * (s.params - s.V * s.D) + Fraction(7, 2) * 4 * s.L * s.T * s.D / 2,
    "levanter": lambda s: 3 * (s.exact + 3 * s.T * s.H * s.L),
    "deepseek": lambda s: 6 * s.L * s.matrices + 12 * s.L * s.H * s.N * s.T,
    "fvcore": lambda s: 3 * (s.exact // 2 - 2 * s.L * s.T * s.H * s.N + s.layernorm * 5 * s.D * (2 * s.L + 1)),
}


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """Dense shapes, grouped heads and H N != D among them."""
    K, group, T = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 40))
    sizes = dict(V=draw(st.integers(1, 60)), T=T, D=draw(st.integers(1, 30)), L=draw(st.integers(1, 5)), F=draw(st.integers(1, 50)))
    flags = dict(zip(("gated", "tied", "bias", "layernorm"), draw(st.tuples(*[st.booleans()] * 4)), strict=True))
    return Shape(H=K * group, K=K, N=draw(st.integers(1, 8)), P=draw(st.sampled_from((0, T, T + 3))), **sizes, **flags)


def trained(shape: Shape, name: str, batch: int = 1) -> Fraction:
    return Fraction(account(shape.spec, phase="train", convention=name, batch=batch).flops.train_step, batch * shape.T)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_closed_form_of_published_models(name: str) -> None:
    for shape in (GPT2, LLAMA):
        assert trained(shape, name) == CLOSED[name](shape)


@pytest.mark.parametrize("name", CONVENTIONS)
@settings(max_examples=60)
@given(shape=shapes(), batch=st.integers(1, 3))
def test_closed_form_of_any_dense_shape(name: str, shape: Shape, batch: int) -> None:
    assert trained(shape, name, batch) == CLOSED[name](shape)


@settings(max_examples=60)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.integers(1, 40), st.integers(1, 60), st.integers(1, 3))
def test_forms_printed_for_a_plain_mlp_of_4d(L: int, heads: int, N: int, S: int, V: int, B: int) -> None:
    """Multi-head attention with H N = D: Megatron-LM (2104.04473, equation 3; 2205.05198, appendix A) and DeepSeek LLM (2401.02954)."""
    h = heads * N
    shape = Shape(V=V, T=S, D=h, L=L, F=4 * h, H=heads, K=heads, N=N)
    steps = {name: trained(shape, name, B) * B * S for name in ("megatron", "megatron-no-recompute", "deepseek", "kaplan")}
    assert steps["megatron"] == 96 * B * S * L * h**2 * (1 + Fraction(S, 6 * h) + Fraction(V, 16 * L * h))
    assert steps["megatron-no-recompute"] == 72 * B * S * L * h**2 * (1 + Fraction(S, 6 * h) + Fraction(V, 12 * L * h))
    assert steps["deepseek"] == B * S * (72 * L * h**2 + 12 * L * h * S)
    # Kaplan's N = 12 L D^2 leaves the norms' weights out.
    assert steps["kaplan"] == 6 * B * S * (12 * L * h**2 + (2 * L + 1) * h)


@settings(max_examples=60)
@given(shapes(), st.integers(1, 50))
def test_windows(shape: Shape, window: int) -> None:
    windowed = replace(shape, window=window)
    assert trained(windowed, "olmo-core") == CLOSED["olmo-core"](windowed)
    assert trained(windowed, "palm") == CLOSED["palm"](shape)
    full, half = (account(windowed.spec, convention=name).flops.forward for name in ("matmul", "causal-half"))
    assert trained(windowed, "lingua") == CLOSED["lingua"](shape)
    assert full - half == 4 * shape.L * shape.H * shape.N * shape.T * (shape.T - min(Fraction(shape.T, 2), window))


# Which conventions print no forward pass of a third: lingua recomputes scores, Megatron blocks.
OWN_BACKWARD = {"lingua", "megatron"}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_forward_is_a_third_unless_it_says_otherwise(name: str) -> None:
    flops = account(GPT2.spec, phase="train", convention=name).flops
    assert (flops.train_step == 3 * flops.forward) == (name not in OWN_BACKWARD)
    assert flops.forward + flops.backward == flops.train_step


def test_megatron_forward_is_the_matmul_count() -> None:
    assert account(GPT2.spec, convention="megatron").flops.forward == GPT2.exact * GPT2.T


def test_matmul_spares_what_a_stopped_gradient_spares() -> None:
    """A predictor behind a stop-gradient has no gradient towards its input; 3 x forward would bill it."""
    spec = msgspec.convert({**msgspec.to_builtins(GPT2.spec), "mod": {"predictor_width": 64}}, Spec)
    flops = account(spec, phase="train").flops
    width, D, blocks = 64, 768, 6
    assert 3 * flops.forward - flops.train_step == blocks * 2 * 1024 * D * width


def test_experts_count_by_what_a_token_uses() -> None:
    """torchtitan and OLMo-core count active parameters, 6ND counts all."""
    moe = msgspec.convert({**msgspec.to_builtins(LLAMA.spec), "moe": {"n_experts": 8, "top_k": 2, "d_ff": 64}}, Spec)
    inactive = 32 * 6 * 3 * 4096 * 64
    total = account(moe).params.total
    tokens = LLAMA.T
    attention = 12 * 32 * 4096 * LLAMA.T
    assert account(moe, phase="train", convention="torchtitan").flops.train_step == tokens * (6 * (total - inactive - 32000 * 4096) + attention)
    assert account(moe, phase="train", convention="6nd").flops.train_step == tokens * 6 * total


def test_a_token_that_goes_around_still_counts_in_6nd() -> None:
    routed = msgspec.convert({**msgspec.to_builtins(GPT2.spec), "mod": {}}, Spec)
    report = account(routed, phase="train", convention="6nd")
    assert report.flops.train_step == 6 * 1024 * report.params.total


@pytest.mark.parametrize("name", [n for n, rule in CONVENTIONS.items() if rule.causal])
def test_causal_overrides_the_rule(name: str) -> None:
    """Only attention changes; half of it is half of it."""
    full, half = (account(GPT2.spec, convention=name, causal=c) for c in ("full", "half"))
    attention = {line.label: line.forward for line in full.lines("component")}["scores"]
    softmax = 3 * 12 * 1024 * 1024 * 12 if name in ("chinchilla", "chinchilla-printed", "levanter") else 0
    assert 2 * (full.flops.forward - half.flops.forward) == attention - softmax


def test_names_and_rules_that_there_are_not() -> None:
    for wrong, hint in (("megatorn", "did you mean megatron?"), ("zzz", "chinchilla-printed")):
        with pytest.raises(UsageError, match=hint.replace("?", r"\?")):
            find_convention(wrong)
    with pytest.raises(UsageError, match="full, window, half, half-of-all, exact"):
        account(GPT2.spec, causal="halff")
    assert find_convention("lingua", CONVENTIONS["lingua"].causal) is CONVENTIONS["lingua"]
    for name in ("6nd", "kaplan", "fvcore"):
        with pytest.raises(UsageError, match="counts no pairs"):
            find_convention(name, "half")


def test_a_survey_is_the_account_under_each_convention() -> None:
    spec = msgspec.convert({**msgspec.to_builtins(GPT2.spec), "mod": {"predictor_width": 5}}, Spec)
    report, entries = survey(spec, seq_len=512, batch=3)
    exact = account(spec, seq_len=512, batch=3, phase="train").flops
    assert report.flops == exact and [e.convention.name for e in entries] == list(CONVENTIONS)
    for e in entries:
        assert e.flops == account(spec, seq_len=512, batch=3, phase="train", convention=e.convention).flops
        assert e.train_per_token * 3 * 512 == e.flops.train_step
        assert (1 + e.forward_difference) * exact.forward == e.flops.forward
        assert (1 + e.train_difference) * exact.train_step == e.flops.train_step


def test_every_term_names_a_basis() -> None:
    for rule in CONVENTIONS.values():
        assert {t.basis for t in (*rule.forward_terms, *rule.backward_terms, *rule.recompute_terms)} <= set(BASES)


def test_a_convention_of_ones_own() -> None:
    """Data, so a user can write one: products and 8 per score for the softmax."""
    own = msgspec.structs.replace(MATMUL, name="own", forward_terms=(*MATMUL.forward_terms, Term(8, "elements", only=("what:softmax",))))
    assert account(GPT2.spec, convention=own).flops.forward == (GPT2.exact + 8 * 12 * 1024 * 12) * 1024


def test_elements_of_every_kind_of_row() -> None:
    """What a term of one's own may count: block 0 is dense, block 1 routes C of T tokens, the others go around."""
    B, T, C, V, D, H, K, N, F, E, top = 3, 16, 4, 29, 8, 4, 2, 6, 20, 5, 2
    base = dict(
        name="x", vocab_size=V, seq_len=T, d_model=D, n_layers=2, attention=dict(n_heads=H, n_kv_heads=K, head_dim=N, softcap=30.0, gate="headwise"),
        embedding=dict(scale=2.0), head=dict(scale=0.5, softcap=30.0), mlp=dict(d_ff=F), mod=dict(capacity=C, predictor_width=3, bypass=dict(d_ff=7)),
    )  # fmt: skip
    frame = dict(scale=T * (D + V), residual=2 * (T + C) * D, rotary=(T + C) * (H + K) * N, softmax=H * (T * T + C * C))
    around = dict(gather=C * D + (T - C) * D, scatter=C * D + (T - C) * D)
    expected = frame | around | dict(softcap=H * (T * T + C * C) + T * V, select=T, activation=(T + C) * F + T * 3 + (T - C) * 7)
    expected |= dict(gate=(T + C) * H * N)
    moe = dict(n_experts=E, top_k=top, d_ff=F, n_shared=2, shared_gate=True)
    chosen = dict(select=T + (T + C) * E, activation=(T + C) * (top * F + 2 * F) + T * 3 + (T - C) * 7, gate=(T + C) * (H * N + D))
    for fields, found in ((base, expected), ({**base, "moe": moe}, expected | chosen | dict(scatter=T * D + (T + C) * top * D))):
        spec = msgspec.convert(fields, Spec)
        for what, elements in found.items():
            own = msgspec.structs.replace(MATMUL, name="own", forward_terms=(Term(1, "elements", only=(f"what:{what}",)),))
            assert account(spec, batch=B, convention=own).flops.forward == B * elements, what
        norms = msgspec.structs.replace(MATMUL, name="own", forward_terms=(Term(1, "elements", only=("kind:norm",)),))
        assert account(spec, batch=B, convention=norms).flops.forward == B * D * (2 * (T + C) + (T - C) + T)


@pytest.mark.parametrize("layernorm", [True, False])
def test_fvcore_convention_is_what_fvcore_says(layernorm: bool) -> None:
    """fvcore as installed, on the built model through scaled_dot_product_attention."""
    torch = pytest.importorskip("torch")
    fvcore = pytest.importorskip("fvcore.nn")
    from modcalc import build

    shape = Shape(V=50, T=16, D=24, L=2, F=40, H=4, K=2, N=6, P=16, tied=True, bias=True, layernorm=layernorm)
    for spec in (shape.spec, msgspec.convert({**msgspec.to_builtins(shape.spec), "mod": {"predictor_width": 5}}, Spec)):
        count = fvcore.FlopCountAnalysis(build(spec), torch.zeros(2, 16, dtype=torch.long))
        count.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        assert count.total() == account(spec, convention="fvcore", batch=2).flops.forward


def test_a_survey_on_paper(modcalc) -> None:
    code, out, _ = modcalc("conventions", "dense-small", "-T", 64, "-B", 3)
    assert code == 0 and "3 sequences of 64 tokens" in out
    assert out.endswith("\n1 multiply-add = 2 FLOPs, but for fvcore 1 per multiply-add\n")

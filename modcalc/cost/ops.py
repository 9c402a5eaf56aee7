"""Rows of the ledger: one operation of one module each, and what it costs.

Every formula stands once per kind of row, over dims that are ints (exact), Fractions (expectations at
sampling) or numpy arrays (a lattice of shapes). One multiply-add is 2 FLOPs.

| kind      | forward multiply-adds, B sequences               | parameters                        |
| --------- | ------------------------------------------------ | --------------------------------- |
| linear    | B t d_in d_out                                   | d_in d_out (+ d_out)              |
| experts   | B t d_in d_out, t = token-to-expert assignments  | E (d_in d_out (+ d_out))          |
| attention | B pairs H (N + N_v); pairs = t S, or as `causal` | H with sinks                      |
| lookup    | 0                                                | rows width                        |
| norm      | 0                                                | groups width (x 2 with bias)      |
| pointwise | 0                                                | 2 of xIELU; E factors of experts  |

t tokens of one sequence, S tokens attended to, H heads, N and N_v head dims of keys and of values, E experts.
"""

from fractions import Fraction
from typing import Any, ClassVar

from msgspec import Struct
from msgspec.structs import replace

from modcalc.spec.plan import Dim, MlpPlan, least, most

CAUSAL = ("full", "window", "half", "half-of-all", "exact")

Weights = dict[str, tuple[Dim, ...]]


class Op(Struct, frozen=True, kw_only=True):
    """One operation. `path` is the torch module's dotted name, `{}` standing for the index of each of `layers`.

    batch: sequences B. tokens: tokens of one sequence that pass, of its `length` new ones. repeat: how many equal layers the row stands for.
    own: False where the parameters are another row's (a later recursion, a second use of a norm). active: share of the parameters
    that a token uses on average. input_grad: False behind a stop-gradient. part: the plan's part that it belongs to.
    reads: name of the tensor that it reads, equal names being one tensor. scope: "" or the recursion whose pass it is.
    """

    kind: ClassVar[str]
    path: str
    component: str
    batch: int
    tokens: Dim
    length: Dim
    repeat: Dim = 1
    layers: tuple[int, ...] = ()
    own: bool = True
    active: Any = 1
    input_grad: bool = True
    part: Any = None
    reads: str = ""
    scope: str = ""

    @property
    def weights(self) -> Weights:
        """Parameter name -> shape, of one layer; empty if the row owns none."""
        return {}

    @property
    def params(self) -> Dim:
        """Parameters of all `repeat` layers."""
        total = 0
        for shape in self.weights.values():
            n = 1
            for dim in shape:
                n = n * dim
            total = total + n
        return total * self.repeat

    @property
    def active_params(self) -> Dim:
        """Parameters that one token uses, on average over a sequence."""
        return self.params * self.active

    def macs(self, causal: str = "full") -> Dim:
        """Multiply-adds of matrix products, forward, all layers and sequences."""
        return 0

    def flops(self, causal: str = "full") -> Dim:
        """Forward FLOPs: 2 per multiply-add."""
        return 2 * self.macs(causal)

    def grad_input_flops(self, causal: str = "full") -> Dim:
        """Backward FLOPs towards the operation's input (for attention: towards q, k and v)."""
        return self.flops(causal) if self.input_grad else 0

    def grad_weight_flops(self, causal: str = "full") -> Dim:
        """Backward FLOPs towards the operation's weight."""
        return self.flops(causal)

    def paths(self) -> list[str]:
        """The module paths that the row stands for."""
        return [self.path.format(i) for i in self.layers] if self.layers else [self.path]


class Linear(Op, frozen=True, kw_only=True):
    """y = x W^T (+ b); W: [d_out, d_in]. tied: W is another row's (the embedding's). precise: in fp32 whatever the model's type."""

    kind = "linear"
    d_in: Dim
    d_out: Dim
    bias: bool = False
    tied: bool = False
    precise: bool = False

    @property
    def weights(self) -> Weights:
        there = (("weight", (self.d_out, self.d_in), not self.tied), ("bias", (self.d_out,), self.bias))
        return {name: shape for name, shape, has in there if has and self.own}

    def macs(self, causal: str = "full") -> Dim:
        return self.repeat * self.batch * self.tokens * self.d_in * self.d_out


class Experts(Linear, frozen=True, kw_only=True):
    """The same projection of E experts; W: [E, d_out, d_in]. tokens: token-to-expert assignments of one sequence."""

    kind = "experts"
    n_experts: Dim

    @property
    def weights(self) -> Weights:
        if not self.own:
            return {}
        bias = {"bias": (self.n_experts, self.d_out)} if self.bias else {}
        return {"weight": (self.n_experts, self.d_out, self.d_in), **bias}


class AttentionCore(Op, frozen=True, kw_only=True):
    """softmax(q k^T) v over `context` keys, of which the last `tokens` are the queries' own.

    v_head_dim: head_dim of the values. among: new tokens that bring a key, if others do than the queries, which stand anywhere among
    them: what a query sees is then the mean over all. Full: every query meets every key, as an implementation that masks computes
    it (windows mask too). Window: as many as its window holds (OLMo-core). Half: half of all (Megatron-LM), at most a
    window, or half of its chunk. Half of all: whatever the window (lingua). Exact: itself and what it may see.
    """

    kind = "attention"
    d_model: Dim
    context: Dim
    n_heads: Dim
    n_kv_heads: Dim
    head_dim: Dim
    v_head_dim: Dim
    among: Dim | None = None
    window: int | None = None
    begun: Dim | None = None  # windows stand side by side, as chunks: keys before the queries in the one that has begun; None: they slide
    sinks: bool = False
    softcap: bool = False
    decode: bool = False  # one query that sees all its keys, whatever the convention
    absorbed: bool = False  # latent attention at decode: the values are the first v_head_dim entries of the one key

    @property
    def weights(self) -> Weights:
        return {"sinks": (self.n_heads,)} if self.sinks and self.own else {}

    def pairs(self, causal: str = "full") -> Dim:
        """Query-key pairs of one head in one sequence."""
        t, S, w = self.tokens, self.context, self.window
        if causal == "full" or self.decode:
            return t * S
        if self.among is not None:
            return ratio(t * whole(replace(self, tokens=self.among, among=None).pairs(causal)), self.among)
        if causal == "window":
            return t * (S if w is None else least(S, w))
        if causal in ("half", "half-of-all"):
            mean = S - ratio(t, 2)
            return t * (mean if w is None or causal == "half-of-all" else least(mean, w if self.begun is None else ratio(w, 2)))
        if self.begun is not None:
            return _chunked(self.begun + t, w) - _chunked(self.begun, w)
        # The i-th query (1..t) sees S - t + i keys, at most w of them.
        pairs = t * (S - t) + ratio(t * (t + 1), 2)
        if w is None:
            return pairs
        over = least(t, most(S - w, 0))  # the last `over` queries would see more than w: by S - w, S - w - 1, …
        return pairs - (over * (S - w) - ratio(over * (over - 1), 2))

    def macs(self, causal: str = "full") -> Dim:
        return whole(self.repeat * self.batch * self.pairs(causal) * self.n_heads * (self.head_dim + self.v_head_dim))

    @property
    def brought(self) -> Dim:
        """New tokens of a sequence that bring a key and a value."""
        return self.tokens if self.among is None else self.among

    @property
    def windowed(self) -> bool:
        """Whether its window hides any pair that a causal mask leaves."""
        return self.window is not None and self.window < self.length

    @property
    def fusible(self) -> bool:
        """Whether torch's scaled_dot_product_attention can compute it: neither sinks nor a soft cap change the softmax."""
        return not (self.sinks or self.softcap)

    def fuses(self, device: str) -> bool:
        """Whether a kernel of that device does: on the CPU there is none for values of another width than keys."""
        return self.fusible and (device == "cuda" or self.head_dim == self.v_head_dim)

    @property
    def cached_width(self) -> Dim:
        """Elements that a key/value cache holds per token and layer."""
        return self.n_kv_heads * (self.head_dim if self.absorbed else self.head_dim + self.v_head_dim)

    def grad_input_flops(self, causal: str = "full") -> Dim:
        return 2 * self.flops(causal)

    def grad_weight_flops(self, causal: str = "full") -> Dim:
        return 0


class Lookup(Op, frozen=True, kw_only=True):
    """A row of a table per token: no FLOPs. tied: the model's head shares its token table."""

    kind = "lookup"
    rows: Dim
    width: Dim
    tied: bool = False

    @property
    def weights(self) -> Weights:
        return {"weight": (self.rows, self.width)} if self.own else {}


class NormOp(Op, frozen=True, kw_only=True):
    """RMSNorm or LayerNorm over `width`, `vectors` per token. beside: entries per token that its input's tensor holds besides."""

    kind = "norm"
    norm: str
    width: Dim
    vectors: Dim = 1
    weight: bool = True
    bias: bool = False
    groups: Dim = 1
    beside: Dim = 0

    @property
    def weights(self) -> Weights:
        if not self.own:
            return {}
        shape = (self.groups, self.width) if self.norm_is_grouped else (self.width,)
        return {n: shape for n, there in (("weight", self.weight), ("bias", self.bias)) if there}

    @property
    def norm_is_grouped(self) -> bool:
        return not isinstance(self.groups, int) or self.groups > 1

    @property
    def elements(self) -> Dim:
        return self.repeat * self.batch * self.tokens * self.width * self.vectors


class Pointwise(Op, frozen=True, kw_only=True):
    """Elementwise or data-moving work: `size` elements per token, free by the matmul convention. xIELU has weights, and so have factors of experts.

    what: activation, residual, rotary, softmax, softcap, scale, select (top-k and sort), factors (of experts), gather, scatter, gate.
    """

    kind = "pointwise"
    what: str
    size: Dim

    @property
    def weights(self) -> Weights:
        if not self.own:
            return {}
        if self.what == "factors":
            return {"factors": (self.part.n_experts,)}
        with_some = self.what == "activation" and isinstance(self.part, MlpPlan) and self.part.has_weights
        return {"act.alpha_p": (1,), "act.alpha_n": (1,)} if with_some else {}

    @property
    def elements(self) -> Dim:
        return self.repeat * self.batch * self.tokens * self.size


def _chunked(n: Dim, w: int) -> Dim:
    """Pairs of the first n tokens of a sequence, each with itself and those before it in its chunk of w."""
    rest = n % w
    return n // w * (w * (w + 1) // 2) + ratio(rest * (rest + 1), 2)


def ratio(a: Dim, b: Dim) -> Dim:
    """a / b, exact but for arrays."""
    return Fraction(a, b) if isinstance(a, int) and isinstance(b, int) else a / b


def whole(x: Any) -> Any:
    """A Fraction that is a whole number as an int; anything else unchanged."""
    return x.numerator if isinstance(x, Fraction) and x.denominator == 1 else x


def number(x: Any) -> Any:
    """As `whole`, any other Fraction (an expectation) as a float: what a file or a document holds."""
    x = whole(x)
    return float(x) if isinstance(x, Fraction) else x

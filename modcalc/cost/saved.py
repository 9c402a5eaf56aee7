"""What the forward pass keeps for the backward pass: named tensors of each row, equal names being one tensor.

The rules say what torch's autograd saves for the modules of modcalc.models in eager mode: an operation saves those of its
inputs and outputs that its derivative needs, so that q, k and v projections, which read one tensor, keep it once.
Parameters are not counted. Rules stand by kind of row; sizes are those of the row.
"""

from collections.abc import Callable, Iterator

from msgspec import Struct

from modcalc.cost.ops import AttentionCore, Experts, Linear, Lookup, NormOp, Op, Pointwise
from modcalc.cost.saved_experts import moved_by_experts, selected_by_router
from modcalc.cost.tensors import Tensor, element_bytes
from modcalc.cost.workload import Training
from modcalc.spec.plan import MlpPlan, MoePlan, RoutingPlan
from modcalc.spec.resolve import up


class How(Struct, frozen=True):
    """How the model runs. fused: attention through scaled_dot_product_attention where it can.

    device: what a norm's kernel keeps depends on it. On cuda (torch 2.9 or later) RMSNorm keeps its input and one fp32
    number a vector; on the CPU it is made of parts and keeps an fp32 input and the normed entries as well; LayerNorm's two
    numbers a vector are in fp32 on cuda and in the model's type on the CPU.
    wide: whether the model's own type is as wide as what is computed in full precision (fp32 and fp64 models).
    """

    fused: bool
    device: str
    wide: bool

    @classmethod
    def of(cls, dtype: str, training: Training) -> "How":
        """Raises UsageError for a dtype that there is not."""
        return cls(training.attention == "fused", training.device, element_bytes(dtype) == element_bytes(dtype, "wide"))

    def sdpa(self, op: AttentionCore) -> bool:
        """Whether attention goes through scaled_dot_product_attention."""
        return self.fused and op.fusible


def saved(op: Op, how: How) -> Iterator[Tensor]:
    """Tensors that one layer's row keeps, of phase train or forward. Sizes are exact integers. What no token passes is not run."""
    rule = _RULES.get(getattr(op, "what", op.kind))
    return rule(op, how) if rule and op.tokens else iter(())


def in_full_precision(op: Op, how: How, entries: int) -> Tensor:
    """What a row reads, in full precision: itself in a wide model, else a copy of the row's own."""
    return Tensor(op.reads, entries) if how.wide else Tensor(f"{op.path}:{op.reads}", entries, "wide")


def _lookup(op: Lookup, how: How) -> Iterator[Tensor]:
    # All sequences have the same positions.
    yield Tensor(f"{op.path}:index", op.tokens * (op.batch if op.path == "embedding.tokens" else 1), "index")


def _linear(op: Linear, how: How) -> Iterator[Tensor]:
    entries = op.batch * op.tokens * op.d_in
    if not op.precise:
        yield Tensor(op.reads, entries)
        return
    yield in_full_precision(op, how, entries)
    if not how.wide:
        yield Tensor(f"{op.path}:weight", op.d_in * op.d_out, "wide")


def _experts(op: Experts, how: How) -> Iterator[Tensor]:
    m: MoePlan = op.part
    yield Tensor(op.reads, op.batch * op.tokens * op.d_in)
    if m.dropless:
        runs = op.path.rpartition(".")[0]
        if how.device == "cpu":  # they are read by the host, and lie there
            yield Tensor(f"{runs}:ends", m.n_experts, "index")
        if op.bias:
            yield Tensor(f"{runs}:expert", op.batch * op.tokens, "index")


def _norm(op: NormOp, how: How) -> Iterator[Tensor]:
    vectors = op.batch * op.tokens * op.vectors
    entries = vectors * op.width
    held = entries + op.batch * op.tokens * op.beside
    name = f"{op.path}:{op.reads}"  # a norm may run on more than one tensor
    split = op.weight and op.norm_is_grouped  # a weight of its own for each head is applied by a product after the norm
    if op.norm == "layernorm":
        yield Tensor(op.reads, held)
        yield Tensor(f"{name}:statistics", 2 * vectors, "wide" if how.device == "cuda" else "model")
    elif how.device == "cuda":
        yield Tensor(op.reads, held)
        yield Tensor(f"{name}:statistics", vectors, "wide")
    else:
        yield in_full_precision(op, how, held if how.wide else entries)
        yield Tensor(f"{name}:statistics", vectors, "wide")
        if op.weight and not split:
            yield Tensor(f"{name}:normed", entries, "wide")
    if split:
        yield Tensor(f"{name}:normed", entries)
    if op.weight and op.part.unit_offset:
        yield Tensor(f"{name}:weight", op.groups * op.width)


def _rotary(op: Pointwise, how: How) -> Iterator[Tensor]:
    # One table of cosines and one of sines, shared by all layers whose tokens stand at the same positions.
    sequences = op.batch if picked(op) else 1
    yield Tensor(f"{op.reads}:rotary {op.part.theta} {op.part.rotary_dim}", sequences * op.tokens * op.part.rotary_dim, "wide")


def picked(op: Op) -> bool:
    """Whether each sequence's tokens stand at positions of their own, as chosen ones do."""
    return op.reads != "positions"


def mask(op: AttentionCore, how: How) -> Tensor:
    """What hides keys, of all layers whose tokens stand at the same positions and see as far; where keys are of other tokens, the core's own.
    A fused kernel adds it to the scores, with ALiBi's bias of each head; on cuda its rows begin at multiples of 8.
    """
    fused, window = how.sdpa(op), op.window if op.windowed else None
    biased = fused and op.part.alibi
    heads = op.n_heads if biased else 1
    moved = window or biased or op.among is not None  # else it is the same wherever tokens stand
    row = up(op.context, 8) if fused and how.device == "cuda" else op.context
    name = f"{op.reads}:mask {window} {heads}" if op.among is None else f"{op.path}:mask"
    return Tensor(name, (op.batch if moved and picked(op) else 1) * heads * op.tokens * row, "model" if fused else "mask")


def _attention(op: AttentionCore, how: How) -> Iterator[Tensor]:
    B, t, S, H = op.batch, op.tokens, op.context, op.n_heads
    queries, keys, values = B * t * H * op.head_dim, B * S * H * op.head_dim, B * S * H * op.v_head_dim
    lat = op.part.latent
    kv_up = B * S * H * (lat.nope_dim + op.v_head_dim) if lat else values  # what the values are a view of, unless they are copied
    if how.fused and op.fuses(how.device):
        yield from (Tensor(f"{op.path}:{x}", n) for x, n in (("q", queries), ("k", keys), ("v", kv_up)))
        yield Tensor(op.path, B * t * H * op.v_head_dim)
        yield Tensor(f"{op.path}:logsumexp", B * H * t, "wide")
        if op.windowed or op.part.alibi or op.among is not None:
            yield mask(op, how)
        return
    scores = B * H * t * S
    one = 1 in (B, H, S)  # then a product takes its operands as they stand
    if how.sdpa(op):
        # Without a fused kernel for N != N_v, torch multiplies in full precision and adds its mask.
        values = kv_up if one and how.wide else values
        yield from (Tensor(f"{op.path}:{x}", n, "wide") for x, n in (("q", queries), ("k", keys), ("v", values), ("softmax", scores)))
        return
    yield from (Tensor(f"{op.path}:{x}", n) for x, n in (("q", queries), ("k", keys), ("v", kv_up if one else values)))
    if op.softcap:
        yield Tensor(f"{op.path}:softcap", scores, "wide")
    yield mask(op, how)
    yield Tensor(f"{op.path}:softmax", scores + (B * H * t if op.sinks else 0), "wide")
    if not how.wide:
        yield Tensor(f"{op.path}:weights", scores)


# Tensors kept on the way to the activation's output: its input, and what lies between. The output is kept by whoever reads it.
_BETWEEN = {"gelu": 1, "gelu_tanh": 1, "silu": 1, "relu": 0, "relu2": 1, "quick_gelu": 2, "xielu": 4, "swiglu_clamped": 4}


def _activation(op: Pointwise, how: How) -> Iterator[Tensor]:
    m = op.part
    mlp: MlpPlan | None = m.expert if isinstance(m, MoePlan) else m  # None: the predictor's GELU
    entries = op.batch * op.tokens * op.size
    between = _BETWEEN[mlp.activation] if mlp else 1
    if mlp and mlp.gated:
        between += 2  # the product needs both of its sides
    if between:
        yield Tensor(f"{op.path}:between", between * entries)
    if mlp and mlp.has_weights:
        yield Tensor(f"{op.path}:positive", entries, "mask")
        yield Tensor(f"{op.path}:factors", 2)


def _gate(op: Pointwise, how: How) -> Iterator[Tensor]:
    # The product keeps both of its sides: what is gated, and the gates, of which shared experts have one a token.
    tokens, a = op.batch * op.tokens, op.part
    yield Tensor(op.reads, tokens * op.size)
    yield Tensor(f"{op.path}:gates", tokens * (a.n_heads * a.gate if a else 1))


def _select(op: Pointwise, how: How) -> Iterator[Tensor]:
    if isinstance(op.part, MoePlan):
        yield from selected_by_router(op)
        return
    if op.part.router == "learned":
        yield Tensor(f"{op.path}:scores", op.batch * op.tokens, "wide")


def _factors(op: Pointwise, how: How) -> Iterator[Tensor]:
    # Of experts: the weights, and the factors that they are multiplied by.
    yield Tensor(f"{op.path}:factors", 2 * op.batch * op.tokens * op.size, "wide")


def _gather(op: Pointwise, how: How) -> Iterator[Tensor]:
    yield Tensor(f"{op.path}:{op.reads} index", op.batch * op.tokens, "index")


def _scatter(op: Pointwise, how: How) -> Iterator[Tensor]:
    if isinstance(op.part, MoePlan):
        yield from moved_by_experts(op)
        return
    kept = op.batch * op.tokens
    yield Tensor(f"{op.path}:{op.reads} index", kept, "index")
    yield Tensor(f"{op.path}:{op.reads} source", kept * op.size)
    r: RoutingPlan | None = op.part  # None: tokens that went around, which nothing is blended with
    if r and r.router == "learned":
        # x + r (y - x): both sides and r in full precision, and the places of r among all scores.
        # In a wide model x is what a sublayer reads; in a recursion its first block counts it under a name of its own.
        if not (how.wide and op.path.startswith("recursions.")):
            yield in_full_precision(op, how, kept * op.size)
        yield Tensor(f"{op.path}:new", kept * op.size, "wide")
        yield Tensor(f"{op.path}:r", kept, "wide")
        yield Tensor(f"{op.path}:places", kept, "index")
    if r and r.selection == "threshold":
        yield Tensor(f"{op.path}:valid", kept, "mask")


def _softcap(op: Pointwise, how: How) -> Iterator[Tensor]:
    # That of the scores stands with the attention core.
    if op.path == "head":
        yield Tensor("head:softcap", op.batch * op.tokens * op.size)


_RULES: dict[str, Callable[..., Iterator[Tensor]]] = {
    "lookup": _lookup,
    "linear": _linear,
    "experts": _experts,
    "norm": _norm,
    "attention": _attention,
    "rotary": _rotary,
    "activation": _activation,
    "gate": _gate,
    "select": _select,
    "factors": _factors,
    "gather": _gather,
    "scatter": _scatter,
    "softcap": _softcap,
}

"""Bytes that a forward pass keeps for its backward pass, with and without recomputation: a fold over the tensors of `saved`.

Recomputation is that of torch.utils.checkpoint without reentrance: around each attention core (selective; Korthikanti et
al. 2022, arXiv 2205.05198, section 5) or around each block (full; Chen et al. 2016, arXiv 1604.06174). It keeps what goes
in, positions included, and computes everything else a second time, for one core or block after the other.
"""

from collections.abc import Iterable, Iterator

from msgspec import Struct

from modcalc.cost.convention import in_block
from modcalc.cost.ops import AttentionCore, Op, Pointwise
from modcalc.cost.saved import How, mask, picked, saved
from modcalc.cost.tensors import Tensor, element_bytes
from modcalc.cost.workload import USUAL, Training

BLOCK_INPUT = "blocks.{}.x"


class Activations(Struct, frozen=True):
    """kept: bytes held from the forward to the backward pass, by component. again: the most that comes back at one time by recomputation."""

    kept: dict[str, int]
    again: int

    @property
    def total(self) -> int:
        return sum(self.kept.values())


def activations(rows: Iterable[Op], dtype: str, training: Training = USUAL) -> Activations:
    """What rows of phase train keep, in a model of `dtype`. Parameters, logits and the loss are not activations.

    Selective recomputation leaves a fused core as it is: its kernel computes the scores again by itself.
    """
    recompute, how = training.recompute, How.of(dtype, training)
    rows = list(rows)
    if recompute == "none":
        return Activations(_sums(((op, saved(op, how)) for op in rows), dtype), 0)
    full = recompute == "full"
    parts = _blocks(rows) if full else _cores(rows, how)
    inside = {id(op) for part in parts for op in part}
    outside = [(op, saved(op, how)) for op in rows if id(op) not in inside]
    held = [(part[0], _inputs(part) if full else _core_inputs(part[0])) for part in parts]
    positions = [(op, _positions(op, how)) for part in parts for op in part if isinstance(op, AttentionCore)]
    positions += [(op, saved(op, how)) for part in parts for op in part if _is(op, "rotary")]
    if full:
        # A routed block makes the positions of its tokens inside, so they go and come back with the rest.
        positions = [(op, tensors) for op, tensors in positions if "{}" not in op.reads]
    return Activations(_sums([*outside, *held, *positions], dtype), max((_again(part, how, dtype) for part in parts), default=0))


def _sums(found: Iterable[tuple[Op, Iterable[Tensor]]], dtype: str) -> dict[str, int]:
    """Bytes by component. A tensor counts once, for the first row that keeps it; one with `{}` in its name once a layer."""
    seen: set[tuple] = set()
    sums: dict[str, int] = {}
    for op, tensors in found:
        for tensor in tensors:
            each = "{}" in tensor.name
            key = (op.scope, op.layers if each else (), tensor.name)
            if key not in seen:
                seen.add(key)
                component = tensor.component or op.component
                sums[component] = sums.get(component, 0) + tensor.entries * element_bytes(dtype, tensor.type) * (op.repeat if each else 1)
    return sums


def _blocks(rows: list[Op]) -> list[list[Op]]:
    """Rows of each kind of block, in each recursion."""
    found: dict[tuple, list[Op]] = {}
    for op in rows:
        if in_block(op):
            found.setdefault((op.scope, op.layers), []).append(op)
    return list(found.values())


def _cores(rows: list[Op], how: How) -> list[list[Op]]:
    """Attention cores that no fused kernel computes."""
    return [[op] for op in rows if isinstance(op, AttentionCore) and not how.sdpa(op)]


def _inputs(block: list[Op]) -> Iterator[Tensor]:
    """The residual stream and the indices of its tokens: the first row of a block sees all that come in."""
    first, width = block[0], next(op.size for op in block if _is(op, "residual"))
    yield Tensor(BLOCK_INPUT, first.batch * first.tokens * width, component="residual")
    if first.scope:
        yield Tensor(f"{first.scope}.positions:index", first.batch * first.tokens, "index", "attention")
    else:
        yield Tensor("positions:index", first.tokens, "index", "attention")


def _core_inputs(op: AttentionCore) -> Iterator[Tensor]:
    tokens, keys, lat = op.batch * op.tokens, op.batch * op.context, op.part.latent
    yield Tensor(f"{op.path}:inputs q", tokens * op.n_heads * op.head_dim)
    yield Tensor(f"{op.path}:inputs k", keys * op.n_kv_heads * op.head_dim)
    # Latent values are a view of what kv_up makes, keys' part included.
    yield Tensor(f"{op.path}:inputs v", keys * op.n_kv_heads * (lat.nope_dim + op.v_head_dim if lat else op.v_head_dim))


def _positions(op: AttentionCore, how: How) -> Iterator[Tensor]:
    """What else is known of the tokens' positions: their indices, and the mask that was made of them."""
    yield Tensor(f"{op.reads}:index", (op.batch if picked(op) else 1) * op.tokens, "index")
    if op.among is not None:
        # A core makes its mask itself, of these and of where the keys stand.
        yield Tensor("positions:index", op.among, "index")
    elif op.windowed or op.part.alibi or not how.sdpa(op):
        yield mask(op, how)


def _again(part: list[Op], how: How, dtype: str) -> int:
    """Bytes that one of these blocks or cores keeps when it runs again, beside what was kept all along."""
    there = {BLOCK_INPUT}
    core = part[0]
    if isinstance(core, AttentionCore):
        # The products take what they read as it stands where there is one of something, but for keys and values that heads share.
        lengths = {"q": core.tokens} | (dict.fromkeys("kv", core.context) if core.n_heads == core.n_kv_heads else {})
        there |= {f"{core.path}:{x}" for x, n in lengths.items() if 1 in (core.batch, core.n_heads, n)}
        there |= {tensor.name for tensor in _positions(core, how)}
    seen: dict[str, int] = {}
    for op in part:
        for tensor in saved(op, how):
            if "{}" in tensor.name and tensor.name not in there:
                seen.setdefault(tensor.name, tensor.entries * element_bytes(dtype, tensor.type))
    return sum(seen.values())


def _is(op: Op, what: str) -> bool:
    return isinstance(op, Pointwise) and op.what == what

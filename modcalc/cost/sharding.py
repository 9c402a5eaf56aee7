"""What one of N GPUs holds of a model that FSDP2 shards, in entries of tensors: torch's fully_shard around each block and the whole.

Each parameter lies in N slices of its first dim, as does its gradient and its optimizer states: ZeRO's stage 3 (Rajbhandari et al.
2020, arXiv 1910.02054, section 5.3), in the way of PyTorch FSDP (Zhao et al. 2023, arXiv 2304.11277). All slices are as long as the
longest, so a tensor of fewer rows than GPUs grows when it is put together. With one GPU nothing is sliced.
"""

from collections.abc import Iterable, Iterator
from math import prod

from modcalc.cost.convention import in_block
from modcalc.cost.ops import Lookup, Op
from modcalc.spec.plan import Plan


def sliced(rows: Iterable[Op], n: int) -> int:
    """Entries of one GPU's slices of all parameters."""
    return sum(op.repeat * _slice(shape, n) for op, shape in _tensors(rows))


def outside_blocks(rows: Iterable[Op], n: int) -> int:
    """Entries of weights that are whole from the forward pass to the end of the backward pass: those of no block."""
    return sum(n * _slice(shape, n) for op, shape in _tensors(rows) if not in_block(op))


def in_backward_pass(plan: Plan, rows: list[Op], n: int) -> int:
    """The most entries that are whole on top when a block runs backward.

    Its weights and those of the block before it, which are fetched ahead; its gradients, and with recursions those of all shared blocks,
    which wait for the first recursion's; those of the block after it, put together to be reduced; and gradients of what no block holds,
    but for tables that are read before all blocks and nowhere else.
    """
    whole, own = dict.fromkeys(range(plan.n_layers), 0), dict.fromkeys(range(plan.n_layers), 0)
    for op, shape in _tensors(op for op in rows if in_block(op)):
        for layer in op.layers:
            whole[layer] += n * _slice(shape, n)
            own[layer] += prod(shape)
    order = _passes(plan)
    first, last = {layer: at for at, layer in reversed([*enumerate(order)])}, {layer: at for at, layer in enumerate(order)}
    most = waiting = 0
    for at, layer in enumerate(order):
        waiting += own[layer] if first[layer] == at else 0
        fetched = {layer, *order[max(at - 1, 0) : at]}
        reduced = [i for i in order[at + 1 : at + 2] if first[i] == at + 1]
        most = max(most, waiting + sum(whole[i] for i in (*fetched, *reduced)))
        waiting -= own[layer] if last[layer] == at else 0
    ends = sum(prod(shape) for op, shape in _tensors(rows) if not in_block(op) and not (isinstance(op, Lookup) and not op.tied))
    return most + ends


def at_the_end(rows: list[Op], n: int) -> int:
    """Entries that are whole on top when the token table gets its gradient, last of all, and no activations are left.

    Gradients of all that no block holds; of a tied table also the head's part and the sum of both; those of the first block in one piece.
    """
    ends = sum(prod(shape) for op, shape in _tensors(rows) if not in_block(op))
    tied = sum(2 * prod(shape) for op, shape in _tensors(rows) if op.path == "embedding.tokens" and op.tied)
    return ends + tied + sum(n * _slice(shape, n) for op, shape in _tensors(rows) if in_block(op) and 0 in op.layers)


def _passes(plan: Plan) -> list[int]:
    """Layers in the order in which a forward pass runs them."""
    rec = plan.recursion
    if rec is None:
        return list(range(plan.n_layers))
    shared = [*range(rec.first, rec.last + 1)]
    return [*range(rec.first), *shared * len(rec.routings), *range(rec.last + 1, plan.n_layers)]


def _tensors(rows: Iterable[Op]) -> Iterator[tuple[Op, tuple[int, ...]]]:
    return ((op, shape) for op in rows for shape in op.weights.values())


def _slice(shape: tuple[int, ...], n: int) -> int:
    return -(-shape[0] // n) * prod(shape[1:])

"""What one of N GPUs holds of a model that FSDP2 shards, in entries of tensors: torch's fully_shard around each block and the whole.

Each parameter lies in N slices of its first dim, as does its gradient and its optimizer states: ZeRO's stage 3 (Rajbhandari et al.
2020, arXiv 1910.02054, section 5.3), in the way of PyTorch FSDP (Zhao et al. 2023, arXiv 2304.11277). All slices are as long as the
longest, so a tensor of fewer rows than GPUs grows when it is put together. With one GPU nothing is sliced.
"""

from collections.abc import Iterable, Iterator
from math import prod

from msgspec import Struct

from modcalc.cost.convention import in_block
from modcalc.cost.ops import Op
from modcalc.spec.plan import Plan


def sliced(rows: Iterable[Op], n: int) -> int:
    """Entries of one GPU's slices of all parameters."""
    return sum(op.repeat * _slice(shape, n) for op, shape in _tensors(rows))


class Whole(Struct, frozen=True):
    """Entries that are whole. throughout: weights of no block, from the forward pass to the end of the backward pass. On top of these,
    at the most: at_a_block: while a block runs backward; before_blocks, after_blocks: before the first block, and after the last one's
    backward pass, when there are no activations.
    """

    throughout: int = 0
    at_a_block: int = 0
    before_blocks: int = 0
    after_blocks: int = 0

    @property
    def outside_blocks(self) -> int:
        return max(self.before_blocks, self.after_blocks)


def put_together(plan: Plan, rows: list[Op], n: int) -> Whole:
    """What one of n GPUs has whole in a train step.

    At a block: its weights and those of the block before it, which are fetched ahead; its gradients, and with recursions those of all
    shared blocks, which wait for the first recursion's; those of the block after it, put together to be reduced; and gradients of what
    no block holds, but for what runs before all blocks alone. After all blocks, when the token table gets its gradient: gradients
    of all that no block holds, of a tied table also the head's part and the sum of both; those of the first block in one piece. Before
    all blocks: in one piece as they come from the GPUs, weights of no block and of the first, beside its weights that are made of that
    (torch 2.15 frees the former before it makes the latter; billed is the more).
    """
    if n == 1:  # a whole gradient is added to one that is there; of a tied table the head's part waits for its own
        table = next(op for op in rows if op.path == "embedding.tokens")
        return Whole(after_blocks=table.params * (3 if table.tied else 1))
    whole, own = dict.fromkeys(range(plan.n_layers), 0), dict.fromkeys(range(plan.n_layers), 0)
    throughout = early = gradients = again = 0
    for op, shape in _tensors(rows):
        size, padded = prod(shape), n * _slice(shape, n)
        if in_block(op):
            for layer in op.layers:
                whole[layer] += padded
                own[layer] += size
        else:
            throughout += padded
            gradients += size
            shared = op.path == "embedding.tokens" and op.tied  # with the head
            early += size if shared or not op.path.startswith("embedding.") else 0
            again += 2 * size if shared else 0
    return Whole(throughout, _at_a_block(plan.passes, whole, own) + early, throughout + 2 * whole[0], gradients + again + whole[0])


def _at_a_block(order: list[int], whole: dict[int, int], own: dict[int, int]) -> int:
    """The most of blocks' entries. order: layers as they run forward; whole: their weights with padding; own: without."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for at, layer in enumerate(order):
        first.setdefault(layer, at)
        last[layer] = at
    most = waiting = 0
    for at, layer in enumerate(order):
        waiting += own[layer] if first[layer] == at else 0
        fetched = {layer, *order[max(at - 1, 0) : at]}
        reduced = [i for i in order[at + 1 : at + 2] if first[i] == at + 1]
        most = max(most, waiting + sum(whole[i] for i in (*fetched, *reduced)))
        waiting -= own[layer] if last[layer] == at else 0
    return most


def _tensors(rows: Iterable[Op]) -> Iterator[tuple[Op, tuple[int, ...]]]:
    return ((op, shape) for op in rows for shape in op.weights.values())


def _slice(shape: tuple[int, ...], n: int) -> int:
    return -(-shape[0] // n) * prod(shape[1:])

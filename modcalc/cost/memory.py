"""What a model occupies, in bytes: folds over the ledger's rows. Of one device, which holds all of it or its part of it."""

from msgspec import Struct

from modcalc.cost.activations import Activations, activations
from modcalc.cost.ledger import ledger
from modcalc.cost.ops import AttentionCore, Op, Pointwise, whole
from modcalc.cost.saved_loss import in_its_backward_pass, saved_by_loss
from modcalc.cost.sharding import put_together, sliced
from modcalc.cost.tensors import DTYPE, element_bytes
from modcalc.cost.workload import OPTIMIZERS, USUAL, Training, Workload
from modcalc.errors import UsageError
from modcalc.spec.plan import Dim, Plan, least


class TrainMemory(Struct, frozen=True):
    """Bytes of a train step. master: fp32 weights beside half-precision ones. states: the optimizer's. loss: what the loss keeps for its
    backward pass; loss_backward: what that pass holds on top. Of a model in slices also gathered: weights of no block, put together
    for the whole step; under_way: weights and gradients that are whole on top while a block runs backward. outside: whole ones before the
    first block or after the last one's backward pass, when there are no activations; of one GPU, gradients of the token table to be added.
    """

    weights: int
    gradients: int
    master: int
    states: int
    activations: Activations
    loss: int
    loss_backward: int
    gathered: int = 0
    under_way: int = 0
    outside: int = 0

    @property
    def fixed(self) -> int:
        """What stays from step to step, whatever the batch: weights, gradients and optimizer."""
        return self.weights + self.gradients + self.master + self.states

    @property
    def at_the_loss(self) -> int:
        """What the loss holds when it runs backward."""
        return self.loss + self.loss_backward

    @property
    def at_a_block(self) -> int:
        """What a block holds when it runs backward: what it computes again, and weights and gradients that are whole for it."""
        return self.activations.again + self.under_way

    @property
    def outside_blocks(self) -> int:
        """By how much what is whole there outweighs the activations that are not; below 0 where it does not."""
        return self.outside - self.activations.total

    @property
    def peak(self) -> int:
        """What comes on top of kept activations: the loss, later a block, or in their place what is whole outside blocks, whichever is more."""
        return max(self.at_the_loss, self.at_a_block, self.outside_blocks)

    @property
    def total(self) -> int:
        return self.fixed + self.gathered + self.activations.total + self.peak


class SampleMemory(Struct, frozen=True):
    """Bytes without gradients. kv_cache: after the new tokens; 0 where whole sequences pass. logits: in the model's type."""

    weights: int
    kv_cache: Dim
    logits: int

    @property
    def total(self) -> Dim:
        return self.weights + self.kv_cache + self.logits


def train_memory(plan: Plan, batch: int = 1, training: Training = USUAL, dtype: str = DTYPE) -> TrainMemory:
    """Memory of training on `batch` sequences of the plan's length, on each GPU. dtype: of weights, gradients and activations."""
    work = Workload(batch, plan.seq_len, phase="train")
    rows = ledger(plan, work)
    params, own = sliced(rows, training.fsdp), element_bytes(dtype)
    copied = training.master and own < element_bytes("fp32")
    per_param, counts = OPTIMIZERS[training.optimizer]
    together = put_together(plan, rows, training.fsdp)
    steps = element_bytes("fp32") * sum(len(op.weights) * op.repeat for op in rows) if counts else 0

    def size(*tensors: object) -> int:
        return sum(t.entries * element_bytes(dtype, t.type) for t in tensors)

    return TrainMemory(
        weights=weight_bytes(rows, dtype, training.fsdp),
        gradients=params * own,
        master=params * element_bytes("fp32") if copied else 0,
        states=params * per_param * (element_bytes("fp32") if copied else own) + steps,
        activations=activations(rows, dtype, training),
        loss=size(*saved_by_loss(plan, work)),
        loss_backward=size(in_its_backward_pass(plan, work)),
        gathered=together.throughout * own,
        under_way=together.at_a_block * own,
        outside=together.outside_blocks * own,
    )


def sample_memory(plan: Plan, work: Workload, dtype: str = DTYPE) -> SampleMemory:
    """Memory of a workload of phase prefill, decode or forward: weights, cache and logits, nothing of what passes between layers."""
    rows = ledger(plan, work)
    tokens = work.tokens if work.phase == "forward" else work.batch
    cache = kv_cache_bytes(plan, work.context + work.seq_len, dtype, work.batch, work.routing) if work.sampling else 0
    return SampleMemory(weight_bytes(rows, dtype), cache, logits_bytes(plan, tokens, dtype))


def memory_of(plan: Plan, work: Workload, dtype: str = DTYPE, training: Training = USUAL) -> TrainMemory | SampleMemory:
    """Memory of a workload of any phase."""
    return train_memory(plan, work.batch, training, dtype) if work.phase == "train" else sample_memory(plan, work, dtype)


def logits_bytes(plan: Plan, tokens: int, dtype: str) -> int:
    """Bytes of the logits of so many tokens."""
    return tokens * plan.embedding.vocab_size * element_bytes(dtype)


def weight_bytes(rows: list[Op], dtype: str, gpus: int = 1) -> int:
    """Bytes of all parameters, a tied matrix once, or of one GPU's slices; and of buffers: the fp32 numbers that balance experts."""
    routers = (op for op in rows if op.path.endswith("moe.router") and isinstance(op, Pointwise) and op.own)
    balance = sum(op.repeat * op.size * element_bytes("fp32") for op in routers if op.part.balance_bias)
    return sliced(rows, gpus) * element_bytes(dtype) + balance


def kv_cache_bytes(plan: Plan, context: int, dtype: str = DTYPE, batch: int = 1, routing: str = "expected") -> Dim:
    """Bytes of keys and values of `context` tokens in each of `batch` sequences.

    Plain attention holds K (N + N_v) elements per token and layer, latent attention one latent and one rotary key
    (DeepSeek-V2, arXiv 2405.04434, section 2.1.2); a window's cache holds at most the tokens that one may see. A
    routed block (or recursion) holds only the tokens that it kept, unless all bring keys: the expected share of them, all or none,
    as `routing` says; an expectation may be a Fraction. Raises UsageError for a dtype or routing that there is not, and below 0 tokens.
    """
    if context < 0:
        raise UsageError(f"context {context}: a number of tokens, at least 0")
    work = Workload(batch, 1, max(context - 1, 0), "decode", routing)
    elements = 0
    for op in ledger(plan, work):
        if isinstance(op, AttentionCore):
            # At decode `brought` is the share of tokens that are held; a window's cache holds as many of them as it is wide.
            held = op.brought * context if op.window is None else least(op.brought * context, op.window)
            elements = elements + op.repeat * op.batch * held * op.cached_width
    return whole(elements * element_bytes(dtype))

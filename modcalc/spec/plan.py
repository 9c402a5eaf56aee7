"""The Plan: a spec resolved for one sequence length, with every derived dim settled.

Both the torch models and the ledger read it; neither computes a dim of its own. Dims are ints, or numpy
arrays that broadcast (a lattice of shapes at once); flags and kinds are always plain Python values.
Letters: T tokens of the sequence, D d_model, F d_ff, H heads, K key/value heads, N head_dim, V vocabulary,
C tokens that a routed block keeps, E experts.

Parts are Structs and not dataclasses, which take 50 times as long to define: every start of a command pays for that.
"""

from fractions import Fraction
from typing import Any

from msgspec import Struct

from modcalc.errors import UsageError

# Of experts that choose tokens.
CANNOT_SAMPLE = "choose among all tokens of a sequence, later ones included, and so the model cannot sample"

Dim = Any  # int (exact), Fraction (an expectation), or a numpy array of ints or floats


def least(a: Dim, b: Dim) -> Dim:
    """min(a, b), for arrays too, without importing numpy."""
    return a - (a - b) * (a > b)


def most(a: Dim, b: Dim) -> Dim:
    """max(a, b), for arrays too."""
    return a + (b - a) * (b > a)


class NormPlan(Struct, frozen=True):
    """A norm over the last `width` entries; `groups` > 1: a weight of its own for each head (StableLM 2)."""

    kind: str  # rmsnorm | layernorm
    width: Dim
    weight: bool
    bias: bool
    eps: float
    unit_offset: bool = False
    groups: Dim = 1


class LatentPlan(Struct, frozen=True):
    """Multi-head latent attention; nope + rope = head_dim of the scores."""

    kv_rank: Dim
    q_rank: Dim | None
    nope_dim: Dim
    rope_dim: Dim
    kv_norm: NormPlan
    q_norm: NormPlan | None


class AttentionPlan(Struct, frozen=True):
    """Causal self-attention of one block. q: [T, H, N], k: [T, K, N], v: [T, K, v_head_dim]."""

    n_heads: Dim
    n_kv_heads: Dim
    head_dim: Dim  # N of queries and keys
    v_head_dim: Dim
    scale: float | None  # None: head_dim ** -0.5
    q_bias: bool
    k_bias: bool
    v_bias: bool
    o_bias: bool
    q_norm: NormPlan | None
    k_norm: NormPlan | None
    v_norm: NormPlan | None
    values_from_keys: bool  # what the key projection makes, before norm and rotation
    window: int | None  # keys that a token sees, itself included; None: all before it
    chunked: bool  # windows stand side by side: only keys of the token's own
    sinks: bool
    softcap: float | None
    gate: Dim  # gates of each head: v_head_dim, 1, or 0 for none
    rotary_dim: int  # 0: no rotary
    theta: float
    alibi: bool
    latent: LatentPlan | None


class MlpPlan(Struct, frozen=True):
    """down(act(up x)), or gated: down(act(gate x) * up x)."""

    gated: bool
    activation: str
    d_ff: Dim
    bias: bool

    @property
    def has_weights(self) -> bool:
        """Whether its activation has some: two numbers."""
        return self.activation == "xielu"


class MoePlan(Struct, frozen=True):
    """Experts in place of the MLP. The router scores `n_experts + n_noop` outputs per token."""

    n_experts: Dim
    n_noop: int
    top_k: Dim | None  # None with expert choice
    expert: MlpPlan
    shared: MlpPlan | None  # all shared experts as one MLP
    shared_gate: bool
    choice: str  # token | expert
    capacity: Fraction | None  # of the spec, exact; the buffer is `slots(tokens)`
    score: str
    renormalize: bool
    scaling: float
    router_bias: bool
    balance_bias: bool
    groups: int
    top_groups: int
    own_norm: NormPlan | None  # that of router, routed and shared experts, where each has some

    @property
    def dropless(self) -> bool:
        """Token choice without a buffer: every assignment is computed."""
        return self.choice == "token" and self.capacity is None

    def slots(self, tokens: Dim) -> Dim | None:
        """Tokens that each expert computes per sequence of `tokens`; None: no buffer, tokens * top_k in all (no drops)."""
        outputs = self.n_experts + self.n_noop
        if self.choice == "expert":
            return least(tokens, most(1, (self.capacity.numerator * tokens) // (self.capacity.denominator * outputs)))
        if self.capacity is None:
            return None
        return least(tokens, -(-(self.capacity.numerator * tokens * self.top_k) // (self.capacity.denominator * outputs)))


class RoutingPlan(Struct, frozen=True):
    """Mixture-of-Depths around one block or one part of it."""

    capacity: Dim  # C, tokens kept of the T
    share: Fraction  # C / T, exact; also the expected share at sampling
    router: str  # learned | random
    selection: str  # topk | threshold
    granularity: str  # block | attention | mlp
    keys: str  # kept | all: the tokens that those kept attend to
    predictor_width: Dim | None
    decide: str  # router | predictor: what decides at sampling
    bypass: MlpPlan | None
    aux_loss: float
    z_loss: float

    @property
    def all_keys(self) -> bool:
        """Whether the block's attention holds keys of all tokens, those included that go around."""
        return self.granularity == "mlp" or self.keys == "all"


class BlockPlan(Struct, frozen=True):
    """One block. `norms` says where they stand; the paths are those of modcalc.models.block."""

    d_model: Dim
    attention: AttentionPlan
    ffn: MlpPlan | MoePlan
    norm: NormPlan
    placement: str  # pre | output | sandwich | post
    parallel: str  # none | shared_norm | two_norms
    residual_scale: float
    routing: RoutingPlan | None

    @property
    def keys_of_all(self) -> bool:
        """Whether every token that comes here brings a key and a value."""
        return self.routing is None or self.routing.all_keys

    @property
    def norms_first(self) -> bool:
        """Whether attention and MLP read the stream through a norm."""
        return self.placement in ("pre", "sandwich")

    @property
    def norm_names(self) -> tuple[str, ...]:
        """The block's norm modules in order of use."""
        if self.parallel == "shared_norm":
            return ("attn_norm",)
        return {
            "pre": ("attn_norm", "mlp_norm"),
            "post": ("attn_norm", "mlp_norm"),
            "output": ("attn_out_norm", "mlp_out_norm"),
            "sandwich": ("attn_norm", "attn_out_norm", "mlp_norm", "mlp_out_norm"),
        }[self.placement]


class Group(Struct, frozen=True):
    """Equal blocks, stated once. `layers` are their indices (empty on a lattice); `count` how many there are."""

    block: BlockPlan
    count: Dim
    layers: tuple[int, ...] = ()


class EmbeddingPlan(Struct, frozen=True):
    """Tables of tokens and learned positions, and what stands between them and the first block."""

    vocab_size: Dim
    width: Dim  # of the table; != d_model: projected up
    position_rows: Dim  # learned positions, offset included; 0: none
    position_offset: int
    norm: NormPlan | None
    scale: float | None


class HeadPlan(Struct, frozen=True):
    """The projection to logits: times `scale`, then capped at `softcap`."""

    tied: bool
    bias: bool
    scale: float | None
    softcap: float | None


class RecursionPlan(Struct, frozen=True):
    """Blocks first..last (inclusive) applied once per step with shared weights.

    Step i keeps routings[i].capacity of the tokens that step i - 1 kept.
    """

    first: int
    last: int
    routings: tuple[RoutingPlan, ...]

    def holds(self, layer: int) -> bool:
        """Whether the block of this index is one of those that are shared."""
        return self.first <= layer <= self.last


class Plan(Struct, frozen=True):
    """A decoder for sequences of `seq_len` tokens (or fewer)."""

    name: str
    seq_len: int
    max_len: int | None  # longest sequence that learned positions allow; None: any
    d_model: Dim
    n_layers: Dim
    embedding: EmbeddingPlan
    groups: tuple[Group, ...]
    final_norm: NormPlan | None
    head: HeadPlan
    recursion: RecursionPlan | None = None

    @property
    def blocks(self) -> tuple[BlockPlan, ...]:
        """Blocks in order of layers, equal ones being the same object."""
        at = {i: group.block for group in self.groups for i in group.layers}
        return tuple(at[i] for i in range(self.n_layers))

    @property
    def passes(self) -> list[int]:
        """Layers in the order in which a forward pass runs them: shared ones once in each recursion."""
        rec = self.recursion
        if rec is None:
            return list(range(self.n_layers))
        shared = [*range(rec.first, rec.last + 1)]
        return [*range(rec.first), *shared * len(rec.routings), *range(rec.last + 1, self.n_layers)]

    @property
    def experts(self) -> tuple[MoePlan, ...]:
        """Of each group of blocks that has some."""
        return tuple(group.block.ffn for group in self.groups if isinstance(group.block.ffn, MoePlan))

    @property
    def dropless(self) -> bool:
        """Whether some block has experts without a buffer."""
        return any(moe.dropless for moe in self.experts)

    @property
    def experts_choose(self) -> bool:
        """Whether experts choose tokens, instead of tokens choosing experts."""
        return any(moe.choice == "expert" for moe in self.experts)

    @property
    def is_mod(self) -> bool:
        """Whether some tokens go around some blocks."""
        return self.recursion is not None or any(group.block.routing for group in self.groups)

    @property
    def cache_varies(self) -> bool:
        """Whether routing decides how many tokens a cache holds."""
        return self.recursion is not None or not all(group.block.keys_of_all for group in self.groups)

    @property
    def routed(self) -> dict[int, RoutingPlan]:
        """Layer index -> routing, for the routed blocks in order."""
        return {i: b.routing for i, b in enumerate(self.blocks) if b.routing}

    @property
    def routings(self) -> tuple[tuple[Dim, RoutingPlan], ...]:
        """(tokens of a sequence among which it chooses, routing) of each routed block, or recursion, in order of depth."""
        if self.recursion is None:
            return tuple((self.seq_len, r) for r in self.routed.values())
        each = self.recursion.routings
        return tuple(zip((self.seq_len, *(r.capacity for r in each[:-1])), each, strict=True))

    def demand_room(self, length: int) -> None:
        """Raises UsageError where learned positions end before `length` tokens."""
        if self.max_len is not None and length > self.max_len:
            more = f"{length} tokens are more than its {self.max_len} learned positions"
            raise UsageError(f"{self.name}: {more}; give fewer, or raise positions.max_len")

"""What a user may write in a spec, and nothing else: frozen structs with strict keys.

A Spec knows no sequence position, no rounding and no hardware; `modcalc.spec.resolve` turns it into a
Plan for one sequence length. Field descriptions here are the documentation that `modcalc schema` prints.
Limits that one value can break alone stand here; limits between values stand in `validate.py`.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

# Far above any real model, far below what makes arithmetic or printing slow.
MAX_SIZE = 10**9
MAX_LAYERS = 10_000
MAX_RECURSIONS = 100  # each within the one before, in Python's call stack too

Size = Annotated[int, Meta(ge=1, le=MAX_SIZE)]
Count = Annotated[int, Meta(ge=0, le=MAX_SIZE)]
Layers = Annotated[int, Meta(ge=1, le=MAX_LAYERS)]
Share = Annotated[float, Meta(gt=0.0, le=1.0)]


def _doc(kind: object, text: str) -> object:
    return Annotated[kind, Meta(description=text)]


class Strict(Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every section: immutable, unknown keys refused (kw_only is not inherited)."""


class ProjectionBias(Strict, kw_only=True):
    """Which attention projections carry a bias."""

    q: _doc(bool, "queries; with attention.latent the first projection towards them") = False
    k: _doc(bool, "keys; with attention.latent the projection down to the key/value latent") = False
    v: _doc(bool, "values; false with attention.latent") = False
    o: _doc(bool, "output") = False


class QkNorm(Strict, kw_only=True):
    """Normalisation of queries and keys before the scores."""

    scope: _doc(
        Literal["head", "full", "per_head"],
        "head: one weight of head_dim shared by all heads (Qwen3, Gemma 3); full: over all heads at once (OLMo 2); "
        "per_head: a weight of its own for each head (StableLM 2)",
    ) = "head"
    kind: _doc(Literal["rmsnorm", "layernorm"] | None, "default: the model's norm") = None
    affine: _doc(bool | None, "a learned weight; default: as the model's norm (Llama 4: false)") = None
    bias: _doc(bool | None, "default: norm.bias if that is given, else true for a layernorm with a weight") = None
    rotated_only: _doc(bool, "only in layers that are rotated (Llama 4)") = False


class Latent(Strict, kw_only=True):
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1)."""

    kv_rank: _doc(Size, "width of the compressed key/value latent (kv_lora_rank)")
    q_rank: _doc(Size | None, "width of the compressed query latent (q_lora_rank); null: queries straight from d_model") = None
    nope_dim: _doc(Size, "per head: query/key dims without position (qk_nope_head_dim)")
    rope_dim: _doc(Size, "per head: query/key dims with rotary position, the key part shared by heads (qk_rope_head_dim)")
    v_dim: _doc(Size, "per head: value dims (v_head_dim)")


class FullAttention(Strict, kw_only=True):
    """Layers without a window, where they differ from those with one (Gemma 4)."""

    n_kv_heads: _doc(Size | None, "key/value heads; divides n_heads; default as in the others") = None
    head_dim: _doc(Size | None, "N; default as in the others") = None
    values_from_keys: _doc(bool | None, "as attention.values_from_keys; default as in the others") = None


class Attention(Strict, kw_only=True):
    """Causal self-attention."""

    n_heads: _doc(Size, "query heads H")
    n_kv_heads: _doc(Size | None, "key/value heads K; divides n_heads; default n_heads") = None
    head_dim: _doc(Size | None, "N, free of d_model / n_heads; default d_model / n_heads") = None
    bias: _doc(bool | ProjectionBias, "biases of the q, k, v and o projections, all or by name") = False
    qk_norm: _doc(QkNorm | None, "a norm on queries and keys; null: none; {}: one weight of head_dim, of the model's kind") = None
    v_norm: _doc(bool, "a norm without a weight on each head's values, of the model's kind (Gemma 4)") = False
    values_from_keys: _doc(
        bool,
        "no projection of values: they are what that of the keys makes, before it is normed as keys are and turned. Needs v_norm, and "
        "qk_norm in all layers; bias.v is then without effect",
    ) = False
    window: _doc(
        Size | list[Size | None] | None,
        "sliding window (see chunked for others): a token attends to itself and window - 1 tokens before it; null: all before it. "
        "A list of at most n_layers entries is a pattern over the layers, repeated to their number",
    ) = None
    chunked: _doc(
        bool, "windows stand side by side and do not slide: a token attends to itself and those before it in its own chunk of `window` (Llama 4)"
    ) = False
    sinks: _doc(bool, "a learned logit per head that joins the softmax only (gpt-oss)") = False
    softcap: _doc(Annotated[float, Meta(gt=0.0)] | None, "scores become softcap * tanh(scores / softcap) (Gemma 2)") = None
    scale: _doc(Annotated[float, Meta(gt=0.0)] | None, "factor on the scores; default head_dim ** -0.5") = None
    gate: _doc(
        Literal["elementwise", "headwise"] | None,
        "what the heads bring, before the output projection, times sigmoid(W x), x the input of attention, W without a bias (gated "
        "attention, arXiv 2505.06708); elementwise: a gate for each entry (Arcee Trinity); headwise: one for each head",
    ) = None
    latent: _doc(Latent | None, "multi-head latent attention instead of plain q, k, v projections") = None
    full: _doc(FullAttention | None, "other heads of the layers that have no window, where others have one; null: all have the same") = None


class Positions(Strict, kw_only=True):
    """How a token's position enters."""

    kind: _doc(
        Literal["rotary", "learned", "alibi", "none"],
        "rotary: pairs of query and key dims turn by position (arXiv 2104.09864); learned: a table added to the embeddings; "
        "alibi: scores fall with distance (arXiv 2108.12409); none: only the causal mask",
    ) = "rotary"
    theta: _doc(Annotated[float, Meta(gt=0.0)], "rotary base") = 10000.0
    local_theta: _doc(Annotated[float, Meta(gt=0.0)] | None, "rotary base of windowed layers (Gemma 3); default theta") = None
    rotated: _doc(
        list[bool] | None,
        "layers that are rotated, a pattern over the layers, repeated to their number; false: no position enters there "
        "(SmolLM3, Command R7B); default: all",
    ) = None
    fraction: _doc(Share, "share of head_dim (latent: of rope_dim) that is rotated, rounded down to an even number of dims (partial rotary)") = 1.0
    max_len: _doc(Size | None, "learned positions: the longest sequence; default seq_len") = None
    offset: _doc(Count, "learned positions: unused rows before position 0 (OPT has 2)") = 0


Activation = Annotated[
    Literal["gelu", "gelu_tanh", "silu", "relu", "relu2", "quick_gelu", "xielu", "swiglu_clamped"],
    Meta(
        description="gelu_tanh: GPT-2's gelu_new; relu2: relu squared; quick_gelu: x * sigmoid(1.702 x); xielu: with two weights of its own "
        "(Apertus, arXiv 2411.13010), not in experts; swiglu_clamped: gpt-oss, gated only"
    ),
]


class Mlp(Strict, kw_only=True):
    """Feed-forward network of a block."""

    d_ff: _doc(Size | None, "inner width F; give this or ratio (also where every layer has experts)") = None
    ratio: _doc(Annotated[float, Meta(gt=0.0, le=1000.0)] | None, "F as a multiple of d_model; give this or d_ff") = None
    multiple_of: _doc(Size, "with ratio: F is rounded up to a multiple of this") = 1
    kind: _doc(Literal["plain", "gated"], "plain: down(act(up x)), 2 matrices; gated: down(act(gate x) * up x), 3 matrices") = "plain"
    activation: Activation = "gelu"
    bias: _doc(bool, "biases in all projections; experts have moe.bias") = False


class Moe(Strict, kw_only=True):
    """Mixture of experts in place of the MLP; kind, activation are those of `mlp`."""

    n_experts: _doc(Size, "E, experts that do work")
    top_k: _doc(Size | None, "experts per token; with choice: expert, give capacity instead") = None
    d_ff: _doc(Size | None, "inner width of one expert; default mlp.d_ff") = None
    bias: _doc(bool, "biases in the experts") = False
    n_shared: _doc(Count, "shared experts that every token passes, fused into one MLP of n_shared * shared_d_ff") = 0
    shared_d_ff: _doc(Size | None, "inner width of one shared expert; default d_ff") = None
    shared_gate: _doc(bool, "the shared experts' output times sigmoid(w x), w learned (Qwen2-MoE)") = False
    choice: _doc(
        Literal["token", "expert"],
        "token: each token picks its top_k experts; expert: each expert picks `capacity` tokens of each sequence",
    ) = "token"
    capacity: _doc(
        Annotated[float, Meta(gt=0.0)] | None,
        "token choice: buffer per expert and sequence = ceil(capacity * T * top_k / (E + noop)), tokens over it are dropped, "
        "the buffer is always computed; null: no drops. Expert choice: tokens per expert = max(1, floor(capacity * T / (E + noop)))",
    ) = None
    n_noop: _doc(Count, "no-op experts, chosen like the others, that cost nothing (integrated MoDE, arXiv 2404.02258, section 4.3)") = 0
    score: _doc(
        Literal["softmax_topk", "topk_softmax", "sigmoid"],
        "softmax_topk: softmax over all, then top-k (Mixtral, Qwen3, OLMoE); topk_softmax: top-k, then softmax (gpt-oss); sigmoid: DeepSeek-V3",
    ) = "softmax_topk"
    renormalize: _doc(bool, "kept weights of a token sum to 1, before scaling and factors; they always do with score: topk_softmax") = True
    scaling: _doc(Annotated[float, Meta(gt=0.0)], "factor on the routed experts' weights (routed_scaling_factor)") = 1.0
    router_bias: _doc(bool, "a learned bias in the router") = False
    own_norms: _doc(
        bool,
        "shared and routed experts each between norms of their own (Gemma 4): router and routed experts read the stream through one each, the "
        "router times d_model ** -0.5; what either kind brings is normed apart; a learned factor weighs each expert. Needs n_shared, choice: "
        "token and norm.placement: sandwich, without shared_gate and n_noop",
    ) = False
    balance_bias: _doc(
        bool,
        "a bias for selection only that is no parameter (DeepSeek-V3's e_score_correction_bias), "
        "also where the transformers library keeps one without gradients (afmoe, ernie4_5_moe)",
    ) = False
    groups: _doc(Size, "selection is limited to the best expert groups: number of groups (DeepSeek-V3 n_group)") = 1
    top_groups: _doc(Size, "groups that a token may choose from (DeepSeek-V3 topk_group)") = 1
    every: _doc(Layers, "layers offset, offset + every, … have experts") = 1
    offset: _doc(Count | None, "first layer with experts; default every - 1") = None
    layers: _doc(list[Count] | None, "explicit layers with experts, from 0, ascending, instead of every and offset") = None


class Norm(Strict, kw_only=True):
    """The norms of blocks and head."""

    kind: _doc(Literal["rmsnorm", "layernorm"], "rmsnorm (arXiv 1910.07467) or layernorm (arXiv 1607.06450)") = "rmsnorm"
    bias: _doc(bool | None, "default: true for layernorm; rmsnorm has none") = None
    affine: _doc(bool, "a learned weight, in those of attention.qk_norm too unless they say otherwise; false: neither weight nor bias") = True
    unit_offset: _doc(bool, "the weight is applied as 1 + weight, also those of q and k (Gemma; with layernorm Nemotron)") = False
    eps: _doc(Annotated[float, Meta(gt=0.0, lt=1.0)], "added under the root") = 1e-5
    placement: _doc(
        Literal["pre", "output", "sandwich", "post"],
        "pre: x + f(norm(x)); output: x + norm(f(x)) (OLMo 2); sandwich: x + norm(f(norm(x))) (Gemma 2); "
        "post: norm(x + f(x)) (the original Transformer, OPT-350M)",
    ) = "pre"
    final: _doc(bool, "a norm before the head") = True


class Embedding(Strict, kw_only=True):
    """Token embedding; a lookup, which costs no FLOPs."""

    norm: _doc(bool, "a norm after the embedding (BLOOM)") = False
    scale: _doc(Annotated[float, Meta(gt=0.0)] | None, "factor on the embeddings (Gemma: d_model ** 0.5)") = None
    dim: _doc(Size | None, "width of the table if not d_model; projected up, and down again before the head (OPT-350M)") = None


class Head(Strict, kw_only=True):
    """Unembedding to logits."""

    tied: _doc(bool, "shares the token embedding's weight") = False
    bias: _doc(bool, "a bias on the logits") = False
    scale: _doc(Annotated[float, Meta(gt=0.0)] | None, "factor on the logits (Command R, Granite)") = None
    softcap: _doc(Annotated[float, Meta(gt=0.0)] | None, "logits become softcap * tanh(logits / softcap) (Gemma 2)") = None


class Schedule(Strict, kw_only=True):
    """Capacity that changes over the routed blocks, first to last."""

    kind: _doc(Literal["linear", "cosine"], "linear, or the half cosine of p-MoD (arXiv 2412.04449)")
    start: _doc(Share, "share at the first routed block")
    end: _doc(Share, "share at the last routed block")


class Bypass(Strict, kw_only=True):
    """A light MLP for the tokens that go around (CoLT5 2303.09752, FlexiDepth 2503.23798); kind, activation and bias are those of `mlp`."""

    d_ff: _doc(Size, "inner width")


class Mod(Strict, kw_only=True):
    """Mixture-of-Depths (arXiv 2404.02258): which blocks only the chosen tokens pass, and how they are chosen."""

    capacity: _doc(
        Share | Size | list[Share | Size] | Schedule,
        "tokens that a routed block keeps: a share of T (a number with a point, 0 < share <= 1) or a count (an integer, "
        "at most seq_len; at a shorter T all of T). "
        "A list gives one for each routed block (or each recursion)",
    ) = 0.125
    every: _doc(Layers, "every n-th block is routed") = 2
    offset: _doc(Count | None, "first routed block, counted from 0; default every - 1, so the 2nd, 4th, …") = None
    layers: _doc(list[Count] | None, "explicit routed blocks, counted from 0, ascending, instead of every and offset") = None
    rounding: _doc(
        Literal["floor", "ceil", "nearest"], "share * T to whole tokens; nearest takes halves up; never below 1 token for a positive product"
    ) = "floor"
    multiple_of: _doc(Size, "the rounded capacity goes up to a multiple of this (at most T)") = 1
    router: _doc(Literal["learned", "random"], "learned: r = w·x; random: Gaussian noise chooses, r = 1 (the paper's control)") = "learned"
    selection: _doc(
        Literal["topk", "threshold"],
        "topk: the C highest r of a sequence; threshold: sigmoid(r) > 0.5, of which a buffer of C (the expected count) holds the highest",
    ) = "topk"
    granularity: _doc(Literal["block", "attention", "mlp"], "what the chosen tokens pass; the rest of the block sees all tokens") = "block"
    keys: _doc(
        Literal["kept", "all"],
        "what kept tokens attend to; kept: one another (the paper); all: every token before them, so that the others bring keys and values, "
        "which are computed and cached for all (FlexiDepth, arXiv 2503.23798). Not with granularity mlp, nor with recursions",
    ) = "kept"
    predictor_width: _doc(Size | None, "inner width of the MLP that predicts the choice from the stopped gradient input; null: none") = None
    decide: _doc(Literal["router", "predictor"] | None, "what decides at sampling; default: the predictor if there is one, else sigmoid(r) > 0.5") = (
        None
    )
    bypass: _doc(Bypass | None, "what the other tokens pass; null: the identity") = None
    recursions: _doc(
        Annotated[int, Meta(ge=1, le=MAX_RECURSIONS)] | None,
        "apply the blocks `layers` (a contiguous list; default all) this often with shared weights; capacity is a list with one entry a "
        "recursion, each choosing among the tokens that the one before kept (Mixture-of-Recursions, arXiv 2507.10524)",
    ) = None
    aux_loss: _doc(Annotated[float, Meta(ge=0.0)], "weight of the router's binary cross-entropy against the chosen set") = 0.01
    z_loss: _doc(Annotated[float, Meta(ge=0.0)], "weight of the mean squared router logit") = 0.0


class Limits(Strict, kw_only=True):
    """One budget rule: bounds in base units (FLOPs, parameters, bytes), numbers like 6e18 or 80GiB allowed."""

    max: _doc(float | int | str | None, "at most this") = None
    min: _doc(float | int | str | None, "at least this") = None
    equals: _doc(float | int | str | None, "exactly this, or within a relative difference; instead of max and min") = None
    within: _doc(Annotated[float, Meta(ge=0.0)] | None, "with equals: allowed relative difference") = None
    relative_to: _doc(
        str | None,
        "another spec (path from this file, REVISION:path of a git revision, REVISION: for this file there, or a shipped name): bounds are "
        "ratios to its value; batch_size of one counts for both",
    ) = None


class Train(Strict, kw_only=True):
    """A training schedule, for total training FLOPs and memory."""

    batch_size: _doc(Size, "sequences a step") = 1
    steps: _doc(Size | None, "optimizer steps") = None
    tokens: _doc(Annotated[int, Meta(ge=1, le=10**18)] | None, "training tokens, in whole steps that see at least so many; give this or steps") = None


class Budget(Strict, kw_only=True):
    """What `modcalc check` holds the spec to. A bare number is `max`."""

    params: _doc(Limits | int | float | str | None, "all parameters, a tied matrix once") = None
    active_params: _doc(Limits | int | float | str | None, "parameters that one token uses on average (experts and routed blocks by share)") = None
    forward_flops: _doc(Limits | int | float | str | None, "one sequence of seq_len") = None
    forward_flops_per_token: _doc(Limits | int | float | str | None, "forward_flops / seq_len") = None
    train_step_flops: _doc(Limits | int | float | str | None, "one step of train.batch_size sequences (1 without `train`)") = None
    train_flops: _doc(Limits | int | float | str | None, "the whole schedule of `train`, which must give steps or tokens") = None
    kv_cache_bytes: _doc(Limits | int | float | str | None, "one sequence of seq_len, bf16") = None
    train_memory_bytes: _doc(Limits | int | float | str | None, "training with train.batch_size, bf16 mixed precision AdamW") = None


class Spec(Strict, kw_only=True):
    """A decoder-only transformer, dense or Mixture-of-Depths."""

    name: _doc(str, "what tables and messages call the model: 1 to 200 printable characters")
    vocab_size: _doc(Size, "V")
    seq_len: _doc(Size, "T, the default sequence length")
    d_model: _doc(Size, "D")
    n_layers: _doc(Layers, "L")
    attention: _doc(Attention, "causal self-attention of every block")
    mlp: _doc(Mlp, "feed-forward network of every block that has no experts")
    moe: _doc(Moe | None, "experts instead of the MLP, in all blocks or some") = None
    norm: _doc(Norm, "the norms of blocks and head") = Norm()
    positions: _doc(Positions, "how a token's position enters") = Positions()
    embedding: _doc(Embedding, "token embedding") = Embedding()
    head: _doc(Head, "unembedding to logits") = Head()
    parallel: _doc(
        Literal["none", "shared_norm", "two_norms"],
        "attention and MLP side by side: x + attn(n(x)) + mlp(n'(x)), with one norm (Falcon-7B, Phi) or two (GPT-NeoX)",
    ) = "none"
    residual_scale: _doc(
        Annotated[float, Meta(gt=0.0)],
        "factor on what attention and MLP or experts add to the residual stream (Granite); mod.bypass adds as it is",
    ) = 1.0
    mod: _doc(Mod | None, "Mixture-of-Depths; null: dense; {}: 12.5 % of the tokens in every other block") = None
    train: _doc(Train | None, "a training schedule, for budgets") = None
    budget: _doc(Budget | None, "what `modcalc check` holds the spec to") = None
    description: _doc(str | None, "free text") = None
    source: _doc(str | None, "where the shape is published") = None

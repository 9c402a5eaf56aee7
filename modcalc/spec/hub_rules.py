"""How fields of a config.json become knobs of a spec, where a knob is more than a copy of one field.

A rule takes a Config (field -> value, the library's defaults filled in) and returns the knob's value; None leaves the
knob at the spec's default. It raises Refused where the values make no model.
"""

import math
from collections.abc import Callable
from typing import Any

from modcalc.spec.hub_fields import ACTIVATIONS, same, show


class Refused(Exception):
    """Field, and what is wrong with it."""

    def __init__(self, field: str, text: str) -> None:
        self.field, self.text = field, text
        super().__init__(text)


class Config(dict[str, Any]):
    """Understood field -> checked value; flags are never None."""


Rule = Callable[[Config], Any]


def of(field: str) -> Rule:
    """The field as it is."""
    return lambda c: c[field]


def needed(field: str) -> Rule:
    """The field, for which a null has no meaning here."""

    def rule(c: Config) -> Any:
        if c[field] is None:
            raise Refused(field, "null, or left out, but a number is needed here")
        return c[field]

    return rule


def one_or_more(field: str) -> Rule:
    """A count where the library takes 0 for something else."""

    def rule(c: Config) -> int:
        if not c[field]:
            raise Refused(field, f"{show(c[field])}, but this model_type has at least one")
        return c[field]

    return rule


def factor(field: str) -> Rule:
    """A factor that may be 1, or null where a type allows that, which is none."""
    return lambda c: None if c[field] in (None, 1) else float(c[field])


def scaled_by_depth(c: Config) -> float | None:
    """MiniCPM: what a part adds, times scale_depth / sqrt(L)."""
    return None if c["scale_depth"] is None else c["scale_depth"] / math.sqrt(c["num_hidden_layers"])


def scaled_by_width(c: Config) -> float | None:
    """MiniCPM: logits, times dim_model_base / D."""
    return None if c["dim_model_base"] in (None, c["hidden_size"]) else c["dim_model_base"] / c["hidden_size"]


def head_dim(c: Config) -> int | None:
    """N, if it is not D / H (the spec's own default)."""
    D, H, N = c["hidden_size"], c["num_attention_heads"], c.get("head_dim")
    if N is None and D % H:
        raise Refused("num_attention_heads", f"{H} heads do not divide hidden_size {D}")
    return None if N is None or N * H == D else N


def head_width(c: Config) -> int:
    """N as the library takes it: D / H, rounded down, where the file has none."""
    return c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]


def floored_head_dim(c: Config) -> int | None:
    """N where the library takes D / H rounded down."""
    N = head_width(c)
    return None if N * c["num_attention_heads"] == c["hidden_size"] else N


def same_vocabulary(c: Config) -> None:
    """Apertus 1.5: a head may have rows for the first tokens alone."""
    if c["output_vocab_size"] not in (None, c["vocab_size"]):
        raise Refused("output_vocab_size", f"{c['output_vocab_size']}, but vocab_size is {c['vocab_size']}: a spec has one vocabulary")


def read_instead(field: str, read: str, value: Rule) -> Rule:
    """A check of a field that the class does not read, but `read`, with this value: null for none, or the same is needed."""

    def rule(c: Config) -> None:
        taken = value(c)
        if c[field] is not None and not same(c[field], taken):
            raise Refused(field, f"{show(c[field])}: the transformers library does not read it, but {read}, which is {show(taken)}; remove it")

    return rule


def follow(field: str) -> Rule:
    """Whether layers with experts follow the first ones, which are dense."""
    return lambda c: c[field] < c["num_hidden_layers"]


experts_after_dense = follow("first_k_dense_replace")


def no_bias_in_shared_experts_alone(c: Config) -> None:
    """DeepSeek-V2: mlp_bias is for dense layers and shared experts, not for routed ones."""
    if c["mlp_bias"] and experts_after_dense(c):
        raise Refused("mlp_bias", "true: biases in shared but not in routed experts, which no spec can describe")


def equal_heads(c: Config) -> None:
    """For types whose heads always share hidden_size; a rule of head_dim that only checks."""
    if head_dim(c) is not None:
        dims = f"{c['head_dim']} x {c['num_attention_heads']} heads are not hidden_size {c['hidden_size']}"
        raise Refused("head_dim", f"{dims}, which this model_type needs")


def biased_alike(c: Config) -> None:
    """InternLM3: the class has all biases or none."""
    qkv, rest = c["attention_bias"], c["mlp_bias"]
    if qkv != rest:
        said = f"qkv_bias is {show(qkv)} and bias {show(rest)}, but the transformers library has all biases or none here"
        raise Refused("mlp_bias" if rest else "attention_bias", said)


def heads_in_four_parts(c: Config) -> None:
    """CodeGen: queries, values and keys of a quarter of the heads stand together."""
    H = c["num_attention_heads"]
    if H % 4:
        raise Refused("num_attention_heads", f"{H} is no multiple of 4, which the transformers library needs for this model_type")


def kv_heads(c: Config) -> int | None:
    """K, if it is not H."""
    H, K = c["num_attention_heads"], c["num_key_value_heads"]
    if K is None or K == H:
        return None
    if H % K:
        raise Refused("num_key_value_heads", f"{K} key/value heads do not divide num_attention_heads {H}")
    return K


def falcon_kv_heads(c: Config) -> int | None:
    """Falcon-40B's design has num_kv_heads groups; the older one has a single key/value head, or as many as heads."""
    H = c["num_attention_heads"]
    K = c["num_kv_heads"] or H
    if c["new_decoder_architecture"]:
        return kv_heads(Config(c, num_key_value_heads=K))
    if c["multi_query"]:
        return None if H == 1 else 1
    if K != H:
        raise Refused("num_kv_heads", f"{K}: without multi_query and new_decoder_architecture, num_attention_heads ({H}) is needed")
    return None


def own_kv_heads(c: Config) -> None:
    """For types with a key and a value for each query head, as all latent attention has."""
    K, H = c["num_key_value_heads"], c["num_attention_heads"]
    if K is not None and K != H:
        raise Refused("num_key_value_heads", f"{K}: this model_type has one key and value per head, so num_attention_heads ({H}) is needed")


def activation(field: str, renamed: dict[str, str] | None = None) -> Rule:
    """The activation that the field names."""

    def rule(c: Config) -> str:
        name = (renamed or {}).get(c[field], c[field])
        if name not in ACTIVATIONS:
            raise Refused(field, f"activation {show(name)} is not one of {', '.join(sorted(ACTIVATIONS))}")
        return ACTIVATIONS[name]

    return rule


def silu_alone(c: Config) -> None:
    """Aria: hidden_act is that of the shared experts, silu that of the others."""
    if c["hidden_act"] not in ("silu", "swish"):
        raise Refused("hidden_act", f"{show(c['hidden_act'])} in shared experts, but silu in routed ones, which no spec can describe")


def score_scale(c: Config) -> float | None:
    """Gemma 2 and 3: query_pre_attn_scalar ** -0.5, if that is not head_dim ** -0.5."""
    N = head_width(c)
    return None if c["query_pre_attn_scalar"] == N else float(c["query_pre_attn_scalar"]) ** -0.5


def score_multiplier(c: Config) -> float | None:
    """HyperCLOVA X: attention_multiplier, if that is not head_dim ** -0.5, for which null stands."""
    N, factor = head_width(c), c["attention_multiplier"]
    return None if factor is None or (N and factor == N**-0.5) else factor


def inner(field: str | None = None) -> Rule:
    """F from a field, 4 D where it is null or there is none."""
    return lambda c: (c[field] if field else None) or 4 * c["hidden_size"]


def granite_inner(c: Config) -> int:
    """Granite 4: the width of an expert, or without experts that of what else would be shared beside them."""
    if c["num_local_experts"]:
        return needed("intermediate_size")(c)
    if not c["shared_intermediate_size"]:
        raise Refused("shared_intermediate_size", "0, but without experts it is the width of the MLP")
    return c["shared_intermediate_size"]


def falcon_parallel(c: Config) -> str:
    """Norms of a block: one for both (7B), one each (40B), or one after the other."""
    norms, new = c["num_ln_in_parallel_attn"], c["new_decoder_architecture"]
    if not c["parallel_attn"]:
        if new:
            raise Refused("parallel_attn", "false with new_decoder_architecture: the transformers library cannot run such a model")
        return "none"
    if norms is None:
        norms = 2 if new else 1
    if norms not in (1, 2) or (norms == 2 and not new):
        raise Refused("num_ln_in_parallel_attn", f"{norms}: 1 is possible, or 2 with new_decoder_architecture")
    return "two_norms" if norms == 2 else "shared_norm"


def opt_embedding(c: Config) -> int | None:
    W = c["word_embed_proj_dim"]
    return W if c["hidden_size"] != W else None

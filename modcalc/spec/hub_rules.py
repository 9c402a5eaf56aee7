"""How fields of a config.json become knobs of a spec, where a knob is more than a copy of one field.

A rule takes a Config (field -> value, the library's defaults filled in) and returns the knob's value; None leaves the
knob at the spec's default. It raises Refused where the values make no model.
"""

from collections.abc import Callable
from typing import Any

from modcalc.spec.hub_fields import ACTIVATIONS, show


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


def factor(field: str) -> Rule:
    """A factor that may be 1, which is none."""
    return lambda c: None if c[field] == 1 else float(c[field])


def head_dim(c: Config) -> int | None:
    """N, if it is not D / H (the spec's own default)."""
    D, H, N = c["hidden_size"], c["num_attention_heads"], c.get("head_dim")
    if N is None and D % H:
        raise Refused("num_attention_heads", f"{H} heads do not divide hidden_size {D}")
    return None if N is None or N * H == D else N


def _head_width(c: Config) -> int:
    """N as the library takes it: D / H, rounded down, where the file has none."""
    return c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]


def floored_head_dim(c: Config) -> int | None:
    """N where the library takes D / H rounded down."""
    N = _head_width(c)
    return None if N * c["num_attention_heads"] == c["hidden_size"] else N


def no_bias_in_shared_experts_alone(c: Config) -> None:
    """DeepSeek-V2: mlp_bias is for dense layers and shared experts, not for routed ones."""
    if c["mlp_bias"]:
        raise Refused("mlp_bias", "true: biases in shared but not in routed experts, which no spec can describe")


def equal_heads(c: Config) -> None:
    """For types whose heads always share hidden_size; a rule of head_dim that only checks."""
    if head_dim(c) is not None:
        dims = f"{c['head_dim']} x {c['num_attention_heads']} heads are not hidden_size {c['hidden_size']}"
        raise Refused("head_dim", f"{dims}, which this model_type needs")


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


def latent_kv_heads(c: Config) -> None:
    """Latent attention has a key and a value for each query head."""
    K, H = c["num_key_value_heads"], c["num_attention_heads"]
    if K is not None and K != H:
        raise Refused("num_key_value_heads", f"{K}: latent attention expands to one key and value per head, so num_attention_heads ({H}) is needed")


def activation(*fields: str, renamed: dict[str, str] | None = None) -> Rule:
    """The first field that is set."""

    def rule(c: Config) -> str:
        field = next((f for f in fields if c[f] is not None), fields[-1])
        name = (renamed or {}).get(c[field], c[field])
        if name not in ACTIVATIONS:
            raise Refused(field, f"activation {show(name)} is not one of {', '.join(sorted(ACTIVATIONS))}")
        return ACTIVATIONS[name]

    return rule


def _rope(c: Config) -> list[dict]:
    """The sections that hold rotary settings, strongest first: those of full attention layers, then the flat ones."""
    flat = [c.get(field) or {} for field in ("rope_parameters", "rope_scaling")]
    nested = [section["full_attention"] for section in flat if isinstance(section.get("full_attention"), dict)]
    return [*nested, *flat]


def _rope_number(c: Config, key: str, sections: list[dict]) -> float | None:
    for section in sections:
        value = section.get(key)
        if value is not None:
            if type(value) not in (int, float) or not 0 < value < 10**300:
                raise Refused("rope_parameters", f"{key}: {show(value)} is not a number above 0")
            return float(value)
    return None


def rope_theta(c: Config) -> float:
    """Version 5 keeps it in rope_parameters, version 4 beside it."""
    return _rope_number(c, "rope_theta", _rope(c)) or float(c["rope_theta"])


def rope_local_theta(c: Config) -> float | None:
    """Gemma 3: the base of windowed layers."""
    section = (c["rope_parameters"] or {}).get("sliding_attention")
    sections = [section] if isinstance(section, dict) else []
    return _rope_number(c, "rope_theta", sections) or float(c["rope_local_base_freq"])


def rope_own_theta(c: Config) -> float | None:
    """OLMo 3: the base of windowed layers where theirs is another than that of the rest."""
    section = (c["rope_parameters"] or {}).get("sliding_attention")
    theta = _rope_number(c, "rope_theta", [section]) if isinstance(section, dict) else None
    return None if theta in (None, rope_theta(c)) else theta


def falcon_theta(c: Config) -> float | None:
    return None if c["alibi"] else rope_theta(c)


def rope_fraction(c: Config) -> float | None:
    """Share of head_dim that is rotated."""
    value = _rope_number(c, "partial_rotary_factor", _rope(c)) or float(c["partial_rotary_factor"])
    if value > 1:
        raise Refused("partial_rotary_factor", f"{value} is above 1")
    return None if value == 1 else value


def rope_fraction_or_dims(c: Config) -> float | None:
    """MiniMax-M2: the share as such, where the file says it, or else as rotary_dim."""
    said = c["partial_rotary_factor"] is not None or _rope_number(c, "partial_rotary_factor", _rope(c)) is not None
    return rope_fraction(c) if said else rotary_dims(c)


def rotary_dims(c: Config) -> float | None:
    """Share of head_dim that rotary_dim is, rounded up to the sixth digit; all of it where that is null."""
    R, N = c["rotary_dim"], _head_width(c)
    if R is None or R == N:
        return None
    if R > N or R % 2:
        raise Refused("rotary_dim", f"{R} is no even number up to the {N} dims of a head")
    return -(-R * 10**6 // N) / 10**6


def all_rotated(c: Config) -> None:
    """For types that rotate whole heads whatever the file says."""
    value = _rope_number(c, "partial_rotary_factor", _rope(c))
    if value not in (None, 1.0):
        raise Refused("partial_rotary_factor", f"{value}: this model_type rotates whole heads, so 1 or nothing is needed")


def score_scale(c: Config) -> float | None:
    """Gemma 2 and 3: query_pre_attn_scalar ** -0.5, if that is not head_dim ** -0.5."""
    N = _head_width(c)
    return None if c["query_pre_attn_scalar"] == N else float(c["query_pre_attn_scalar"]) ** -0.5


def inner(field: str | None = None) -> Rule:
    """F from a field, 4 D where it is null or there is none."""
    return lambda c: (c[field] if field else None) or 4 * c["hidden_size"]


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

"""Weights of the transformers library's models (version 5) under the names of ours: the same function, if a spec says all that matters."""

import re
from collections.abc import Iterator

import torch
from hub_configs import BALANCE
from torch import Tensor

ATTENTIONS = ("self_attn", "attention", "self_attention")
# Library's module -> ours; {} is the layer. Where a type differs from the others it stands under its own name.
COMMON = {
    "embed_tokens": "embedding.tokens",
    "embed_in": "embedding.tokens",
    "wte": "embedding.tokens",
    "word_embeddings": "embedding.tokens",
    "wpe": "embedding.positions",
    "tokens_embed": "embedding.tokens",
    "positions_embed": "embedding.positions",
    "embed_positions": "embedding.positions",
    "word_embeddings_layernorm": "embedding.norm",
    "project_in": "embedding.project",
    "project_out": "head_proj",
    "layer_norm": "final_norm",
    "norm": "final_norm",
    "ln_f": "final_norm",
    "norm_f": "final_norm",
    "final_layer_norm": "final_norm",
    "final_layernorm": "final_norm",
    "lm_head": "head",
    "output_projection": "head",
    "input_layernorm": "blocks.{}.attn_norm",
    "ln_1": "blocks.{}.attn_norm",
    "ln_2": "blocks.{}.mlp_norm",
    "norm_1": "blocks.{}.attn_norm",
    "norm_2": "blocks.{}.mlp_norm",
    "self_attn_layer_norm": "blocks.{}.attn_norm",
    "layer.final_layer_norm": "blocks.{}.mlp_norm",
    "ln_attn": "blocks.{}.attn_norm",
    "ln_mlp": "blocks.{}.mlp_norm",
    "post_attention_layernorm": "blocks.{}.mlp_norm",
    "pre_feedforward_layernorm": "blocks.{}.mlp_norm",
    "post_feedforward_layernorm": "blocks.{}.mlp_out_norm",
    "post_norm1": "blocks.{}.attn_out_norm",
    "post_norm2": "blocks.{}.mlp_out_norm",
    **{f"self_attn.{p}_proj": f"blocks.{{}}.attn.{p}_proj" for p in "qkvo"},
    **{f"self_attn.{p}_norm": f"blocks.{{}}.attn.{p}_norm" for p in "qk"},
    **{f"self_attn.{p}_layernorm": f"blocks.{{}}.attn.{p}_norm" for p in "qk"},
    **{f"self_attn.{name}_layernorm": f"blocks.{{}}.attn.{name[0]}_norm" for name in ("query", "key")},
    **{f"attn.{p}_proj": f"blocks.{{}}.attn.{p}_proj" for p in "qkv"},
    **{f"attn.attention.{p}_proj": f"blocks.{{}}.attn.{p}_proj" for p in "qkv"},
    **{f"{name}.dense": "blocks.{}.attn.o_proj" for name in ATTENTIONS},
    **{f"{name}.out_proj": "blocks.{}.attn.o_proj" for name in ("self_attn", "attn", "attn.attention")},
    "attn.c_proj": "blocks.{}.attn.o_proj",
    **{f"{name}.{p}_proj": f"blocks.{{}}.mlp.{p}_proj" for name in ("mlp", "ffn") for p in ("gate", "up", "down")},
    **dict.fromkeys(("fc1", "mlp.fc1", "mlp.c_fc", "mlp.fc_in", "mlp.dense_h_to_4h"), "blocks.{}.mlp.up_proj"),
    **dict.fromkeys(("fc2", "mlp.fc2", "mlp.c_proj", "mlp.fc_out", "mlp.dense_4h_to_h"), "blocks.{}.mlp.down_proj"),
    **dict.fromkeys(
        ("mlp.gate", "mlp.gate.wg", "mlp.router", "mlp.router.gate", "block_sparse_moe.router", "ffn.router.layer"), "blocks.{}.moe.router"
    ),
    "shared_mlp.output_linear": "blocks.{}.moe.shared.down_proj",
    "mlp.shared_expert_gate": "blocks.{}.moe.shared_gate",
    "mlp.act_fn": "blocks.{}.mlp.act",
    "self_attn.gate_proj": "blocks.{}.attn.gate_proj",
    "self_attn.q_a_proj": "blocks.{}.attn.q_down",
    "self_attn.q_a_layernorm": "blocks.{}.attn.q_down_norm",
    "self_attn.q_b_proj": "blocks.{}.attn.q_up",
    "self_attn.kv_a_proj_with_mqa": "blocks.{}.attn.kv_down",
    "self_attn.kv_a_layernorm": "blocks.{}.attn.kv_down_norm",
    "self_attn.kv_b_proj": "blocks.{}.attn.kv_up",
    **{
        f"mlp.{name}.{p}_proj": f"blocks.{{}}.moe.shared.{p}_proj"
        for name in ("shared_expert", "shared_experts", "shared_mlp")
        for p in ("gate", "up", "down")
    },
}
NORM_AFTER = {"post_attention_layernorm": "blocks.{}.attn_out_norm"}
# Gemma 4's experts beside the MLP, which is our shared expert.
BESIDE = {
    **{f"mlp.{p}_proj": f"blocks.{{}}.moe.shared.{p}_proj" for p in ("gate", "up", "down")},
    "pre_feedforward_layernorm_2": "blocks.{}.moe.experts_norm",
    "post_feedforward_layernorm_1": "blocks.{}.moe.shared_out_norm",
    "post_feedforward_layernorm_2": "blocks.{}.moe.experts_out_norm",
    "router.proj": "blocks.{}.moe.router",
}
OWN = {
    **dict.fromkeys(("apertus", "apertus1p5_text"), {"attention_layernorm": "blocks.{}.attn_norm", "feedforward_layernorm": "blocks.{}.mlp_norm"}),
    "afmoe": NORM_AFTER | {"pre_mlp_layernorm": "blocks.{}.mlp_norm", "post_mlp_layernorm": "blocks.{}.mlp_out_norm"},
    **dict.fromkeys(("gemma2", "gemma3_text", "olmo2", "olmo3", "flex_olmo", "exaone4", "gemma4_text", "gemma4_unified_text"), NORM_AFTER),
    **dict.fromkeys(
        ("glm4", "glm4v_text", "glm_ocr_text", "kolibri1"),
        {"post_self_attn_layernorm": "blocks.{}.attn_out_norm", "post_mlp_layernorm": "blocks.{}.mlp_out_norm"},
    ),
}
GATED = {"mlp.gate_up_proj": "mlp", "shared_mlp.input_linear": "moe.shared"}  # gate and up in one
CONV1D = ("gpt2", "openai-gpt")  # whose projections are [d_in, d_out]
# Rotated pairs are neighbours, where ours (and most of the library's) stand half the rotated dims apart.
NEIGHBOURS = (
    "glm", "glm4", "glm4v_text", "glm_ocr_text", "ernie4_5", "ernie4_5_moe", "cohere", "cohere2", "cohere2_moe", "gptj", "codegen",
    "deepseek_v2", "helium", "llama4_text",
)  # fmt: skip


def tensors(model: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What the library model computes with: its parameters, and the biases that balance its experts."""
    yield from model.named_parameters()
    yield from ((name, value) for name, value in model.named_buffers() if name.endswith(BALANCE))


def convert(model: torch.nn.Module) -> dict[str, Tensor]:
    """Our parameters and buffers by name, made from the library model's."""
    config = model.config
    out: dict[str, Tensor] = {}
    for name, value in tensors(model):
        layer = re.search(r"\.(\d+)\.", name)
        i = layer.group(1) if layer else ""
        rest = name[layer.end() :] if layer else name.removeprefix("model.").rpartition("decoder.")[2]
        rest = rest.removeprefix("transformer.").removeprefix("gpt_neox.").removeprefix("biogpt.")
        rest = rest.removeprefix("norm_attn_norm.")
        rest = rest.replace("feed_forward.", "mlp.") if config.model_type == "llama4_text" else rest
        for ours, part in _split(config, rest, value.detach(), bool(layer)):
            path = f"blocks.{i}.{ours}" if ours.startswith(("attn.", "moe.", "mlp.")) else ours.format(i)
            if path in out:
                # A norm of its own for each head arrives in pieces.
                part = torch.cat([out[path], part])
            out[path] = part
    # A single head's norm is a plain one.
    return {path: value[0] if path.endswith("_norm.weight") and value.shape[0] == 1 and value.dim() == 2 else value for path, value in out.items()}


def _split(config: object, rest: str, value: Tensor, in_layer: bool) -> Iterator[tuple[str, Tensor]]:
    kind = config.model_type
    module, _, leaf = rest.rpartition(".")
    alone = kind == "granitemoehybrid" and not config.num_local_experts  # what is shared beside experts, without any
    if rest in ("router.scale", "router.per_expert_scale"):
        yield "moe.router_norm.weight" if leaf == "scale" else "moe.factors", value
    elif leaf in BALANCE:
        yield "moe.balance_bias", value.flatten()
    elif module.endswith("sinks") or rest == "self_attn.sinks":
        yield "attn.core.sinks", value
    elif "experts." in f"{module}.{leaf}." and "shared" not in module:
        if kind == "dbrx":  # one expert's rows below the other's
            value = value.unflatten(0, (config.ffn_config.moe_num_experts, -1))
        yield from _experts(kind, rest, value)
    elif module in ("self_attn.qkv_proj", "attn.qkv_proj", "attn.c_attn", "attn.Wqkv", *(f"{a}.query_key_value" for a in ATTENTIONS)):
        if kind in CONV1D:
            value = value.t() if value.dim() == 2 else value
        for p, part in zip("qkv", _qkv(config, value), strict=True):
            ours = f"attn.{p}_proj"
            yield f"{ours}.{leaf}", part if p == "v" else _turned(config, ours, part)
    elif module in GATED:
        for name, part in zip(("gate_proj", "up_proj"), value.chunk(2), strict=True):
            yield f"{'mlp' if alone else GATED[module]}.{name}.{leaf}", part
    elif alone and module == "shared_mlp.output_linear":
        yield f"mlp.down_proj.{leaf}", value
    elif ".norms." in module:
        ours = COMMON[module.split(".norms.")[0]]
        yield f"{ours}.{leaf}", value[None]
    else:
        names = {**COMMON, **OWN.get(kind, {}), **(BESIDE if getattr(config, "enable_moe_block", False) else {})}
        ours = names[f"layer.{module}" if in_layer and f"layer.{module}" in names else module]
        if kind in CONV1D and in_layer and value.dim() == 2:
            value = value.t()
        if ours.endswith(("attn.q_proj", "attn.k_proj", "attn.q_up", "attn.kv_down")):
            value = _turned(config, ours, value)
        elif kind == "cohere" and ours.endswith(("attn.q_norm", "attn.k_norm")):
            value = torch.cat([value[:, ::2], value[:, 1::2]], 1)
        yield f"{ours}.{leaf}", value


def _turned(config: object, ours: str, value: Tensor) -> Tensor:
    """Rows of a projection to queries or keys, in the order in which ours rotates pairs of them."""
    kind = config.model_type
    if kind not in (*NEIGHBOURS, "nanochat"):
        return value
    if kind == "deepseek_v2":
        r, N = config.qk_rope_head_dim, value.shape[0] if ours.endswith("kv_down") else config.qk_nope_head_dim + config.qk_rope_head_dim
        before = N - r
    else:
        N, before = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads, 0
        share = (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor", 1.0)
        r = (config.rotary_dim or N) if kind in ("gptj", "codegen") else int(N * share)
    heads = value.unflatten(0, (-1, N))
    part = heads[:, before : before + r]
    # nanochat turns the other way, which is the second half before the first.
    halves = part.chunk(2, dim=1)[::-1] if kind == "nanochat" else (part[:, ::2], part[:, 1::2])
    return torch.cat([heads[:, :before], *halves, heads[:, before + r :]], dim=1).flatten(0, 1)


def _qkv(config: object, fused: Tensor) -> list[Tensor]:
    """q, k, v rows of a fused projection, by the layout of its type."""
    H = config.num_attention_heads
    N = getattr(config, "head_dim", None) or config.hidden_size // H
    kind = config.model_type
    if kind == "codegen":
        q, v, k = (part.flatten(0, 1) for part in fused.unflatten(0, (4, 3, -1)).unbind(1))
        return [q, k, v]
    if kind == "gpt_bigcode" and config.multi_query:
        return list(fused.split((H * N, N, N)))
    old_falcon = kind == "falcon" and not config.new_decoder_architecture and not config.multi_query
    if kind in ("gpt_neox", "bloom", "gpt_bigcode", "persimmon") or old_falcon:
        return [part.flatten(0, 1) for part in fused.unflatten(0, (H, 3, N)).unbind(1)]
    if kind == "falcon" and config.new_decoder_architecture:
        K = config.num_kv_heads
        q, k, v = fused.unflatten(0, (K, H // K + 2, N)).split((H // K, 1, 1), dim=1)
        return [part.flatten(0, 2) for part in (q, k, v)]
    K = {"falcon": 1, **dict.fromkeys(("dbrx", "phi3", "phi4_multimodal"), getattr(config, "num_key_value_heads", H))}.get(kind, H)
    return list(fused.split((H * N, K * N, K * N)))


def _experts(kind: str, rest: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Fused expert weights [E, out, in]; gpt-oss, Aria and Llama 4 keep [E, in, out], the first interleaves gate and up."""
    name = rest.rpartition("experts.")[2]
    leaf = "bias" if name.endswith("_bias") else "weight"
    if kind in ("gpt_oss", "aria_text", "llama4_text") and leaf == "weight":
        value = value.transpose(1, 2)
    if name.startswith("mlp."):
        ours, value = {"mlp.w1": ("gate_proj", value), "mlp.v1": ("up_proj", value), "mlp.w2": ("down_proj", value.transpose(1, 2))}[name]
        yield f"moe.experts.{ours}.{leaf}", value
        return
    if name.startswith("down_proj"):
        yield f"moe.experts.down_proj.{leaf}", value
        return
    gate, up = (value[:, ::2], value[:, 1::2]) if kind == "gpt_oss" else value.chunk(2, dim=1)
    yield f"moe.experts.gate_proj.{leaf}", gate
    yield f"moe.experts.up_proj.{leaf}", up

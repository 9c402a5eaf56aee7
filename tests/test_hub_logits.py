"""An imported spec says all that a model computes: our model with the transformers library's weights gives the library's logits."""

import random
import zlib

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.24")

from hub_configs import BALANCE, draw, library_config, library_model, nulled  # noqa: E402
from hub_weights import convert, tensors  # noqa: E402

from modcalc import build  # noqa: E402
from modcalc.spec.hub import from_config  # noqa: E402
from modcalc.spec.hub_types import TYPES  # noqa: E402

TOKENS = 12  # longer than any window drawn


def compare(config: dict, seed: str) -> None:
    """Assert that both models, with the same random weights, give the same logits."""
    spec = from_config(config)
    theirs = library_model(library_config(config), "cpu")
    torch.manual_seed(zlib.crc32(seed.encode()))
    with torch.no_grad():
        for name, parameter in tensors(theirs):
            # Far from the initial zeros and ones, so that no bias or norm can hide.
            parameter.copy_(torch.randn_like(parameter) * 0.4 + (1.0 if parameter.dim() == 1 else 0.0))
            if name.endswith(
                ("query_layernorm.weight", "key_layernorm.weight")
            ):  # after the rotation, which a norm of one factor may as well precede
                parameter.fill_(parameter[0])
            if spec.moe and config["model_type"] == "kolibri1" and name.endswith(BALANCE):  # added to logits, ours to scores
                parameter.fill_(0.0)
        ours = build(spec, seq_len=TOKENS).eval()
        found = convert(theirs)
        assert set(found) == {name for name, _ in (*ours.named_parameters(), *ours.named_buffers())}, config
        ours.load_state_dict(found, strict=False)
        tokens = torch.randint(0, spec.vocab_size, (2, TOKENS))
        expected = theirs(input_ids=tokens, use_cache=False).logits
        logits = ours(tokens).logits
    spread = expected.std()
    assert spread > 1e-2, config
    assert (logits - expected).abs().max() <= 1e-3 * spread, config


def weigh_what_comes_out(moe: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, None]:
    """Llama 4's experts, each token's weight on their output."""
    flat = x.flatten(0, 1)
    weights, _ = moe.router(flat)  # [tokens, experts], 0 where not chosen
    each = moe.experts(flat.repeat(moe.num_experts, 1)).unflatten(0, (moe.num_experts, -1))
    return moe.shared_expert(flat) + (each * weights.T[..., None]).sum(0), None


SCALED = ("gpt_oss", "cwm", "apertus", "apertus1p5_text")  # whose classes scale rotary positions by default


@pytest.mark.parametrize("model_type", sorted(TYPES))
def test_same_logits_as_the_library(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if model_type == "llama4_text":  # the weights of experts on what goes in, which a spec does not carry
        monkeypatch.setattr("transformers.models.llama4.modeling_llama4.Llama4TextMoe.forward", weigh_what_comes_out)
    if model_type == "phimoe":  # the weights of SparseMixer, which a spec does not carry
        monkeypatch.setattr("transformers.models.phimoe.modeling_phimoe.sparsemixer", lambda scores, **_: scores.softmax(-1).topk(2))
    for seed in range(6):
        config = nulled(draw(model_type, random.Random(f"logits {model_type} {seed}")))
        if model_type == "falcon":
            config["alibi"] = False  # the library divides the ALiBi bias by sqrt(head_dim) and rounds its slopes to bf16
        if model_type in ("deepseek_v3", "glm4_moe_lite", "mistral4", "sarvam_mla", "youtu"):
            config["rope_interleave"] = False  # else pairs of the rotary dims are neighbours, a permutation of q and k
        if model_type == "deepseek_v2":
            config["topk_method"] = "greedy"  # else groups rank by their best expert alone, which a spec does not carry
        if model_type in ("gemma4_text", "gemma4_unified_text"):  # else a proportional share, which a spec does not carry
            config["rope_parameters"] = {
                kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in (("full_attention", 300.0), ("sliding_attention", 30.0))
            }
        if model_type in SCALED:
            config["rope_parameters"] = {"rope_type": "default", "rope_theta": 1000.0}  # else scaling, which a spec does not carry
        if model_type in ("ministral3", "mistral4"):  # likewise, and a factor on the queries from this length on
            config["rope_parameters"] = {"rope_theta": 1000.0, "llama_4_scaling_beta": 0.1, "original_max_position_embeddings": TOKENS}
        if model_type == "mistral4":  # whose class cannot do without YaRN, here of a factor that changes nothing
            config["rope_parameters"] |= {"rope_type": "yarn", "factor": 1.0}
        if seed % 2 and "rope_theta" in TYPES[model_type].defaults and model_type not in (*SCALED, "ministral3", "mistral4"):
            sections = {"full_attention": {"rope_theta": 300.0}, "sliding_attention": {"rope_theta": 30.0}}
            flat = "rotary_emb_base" if model_type == "gpt_neox" else "rope_theta"
            config |= {"rope_parameters": sections} if model_type in ("olmo3", "gemma3_text") else {flat: 300.0}
        compare(config, f"{model_type}{seed}")


SMALL = dict(vocab_size=50, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=24)
WINDOWS = dict(head_dim=8, query_pre_attn_scalar=8, sliding_window=4)
ALTERNATING = ["sliding_attention", "full_attention"] * 2


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        # Of two sections rope_scaling is the one that is read.
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}, "rope_scaling": {"rope_type": "default"}}),
        ("glm", {"head_dim": 8, "rope_parameters": {"partial_rotary_factor": 1.0}, "rope_scaling": {"rope_type": "default"}}),
        ("olmo3", {"sliding_window": 4, "rope_theta": 100.0}),
        ("olmo3", {"sliding_window": 4, "rope_scaling": {"rope_type": "default", "rope_theta": 100.0}}),
        ("gemma3_text", WINDOWS | {"rope_theta": 100.0, "rope_local_base_freq": 30.0, "sliding_window_pattern": 2}),
        # A null is no default: whole heads rotate.
        ("glm", {"head_dim": 8, "partial_rotary_factor": None}),
        # What the class does not read.
        ("gemma3_text", WINDOWS | {"_sliding_window_pattern": 3, "layer_types": ALTERNATING}),
        ("gpt_neox", {"rotary_pct": 0.5, "partial_rotary_factor": 0.5, "rotary_emb_base": 99, "rope_theta": 99}),
        # As version 5 saves what version 4 had written.
        ("gpt_neox", {"rope_parameters": {"rope_type": "default", "rope_theta": 99, "partial_rotary_factor": 0.5}, "partial_rotary_factor": 0.5,
                      "rope_theta": 99}),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}, "rope_scaling": {"rope_type": "default"}}),
        ("exaone4", {"num_key_value_heads": 2, "sliding_window": 4, "sliding_window_pattern": 2}),
        ("deepseek_v2", {"mlp_bias": True, "first_k_dense_replace": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
                         "kv_lora_rank": 8, "q_lora_rank": None, "qk_rope_head_dim": 4, "v_head_dim": 8, "qk_nope_head_dim": 8}),
    ],
)  # fmt: skip
def test_same_logits_where_fields_of_a_file_compete(model_type: str, fields: dict) -> None:
    compare({"model_type": model_type, **SMALL, **fields}, f"{model_type}{fields}")

"""Which type of the transformers library a config.json is of, or why none that can be billed."""

import re
from collections.abc import Mapping
from difflib import get_close_matches

from modcalc.errors import SpecError
from modcalc.spec.hub_cohere import COHERE_TYPES
from modcalc.spec.hub_deepseek import DEEPSEEK
from modcalc.spec.hub_experts import EXPERTS
from modcalc.spec.hub_fields import show
from modcalc.spec.hub_gemma4 import GEMMA4
from modcalc.spec.hub_layernorm import LAYERNORM
from modcalc.spec.hub_nested import NESTED
from modcalc.spec.hub_outnorm import OUTNORM
from modcalc.spec.hub_parts import ModelType
from modcalc.spec.hub_read import OF_TEXT, TEXT_SECTION, TOWERS, Source
from modcalc.spec.hub_rmsnorm import RMSNORM
from modcalc.spec.hub_text import TEXT

TYPES: dict[str, ModelType] = {**RMSNORM, **OUTNORM, **LAYERNORM, **NESTED, **COHERE_TYPES, **EXPERTS, **DEEPSEEK, **TEXT, **GEMMA4}
# Another type under a name of its own: Kimi K2's is there to tell it from DeepSeek-V3, whose class its file names, GPT-SW3's its tokenizer;
# EXAONE 4.5's decoder had one when it was first published.
ALIASES = {"exaone4_5_text": "exaone4", "gpt-sw3": "gpt2", "kimi_k2": "deepseek_v3", f"phi4_multimodal{OF_TEXT}": "phi4_multimodal"}

# For a better message only: what people try, and what cannot be billed as a decoder.
ENCODER_DECODERS = {
    "bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "fsmt", "led", "longt5", "m2m_100", "marian", "mbart", "mt5", "mvp", "nllb-moe",
    "pegasus", "plbart", "prophetnet", "switch_transformers", "t5", "t5gemma", "t5gemma2", "umt5", "whisper",
}  # fmt: skip
# Decoders of the library with parts that no spec can describe, by what these are; near names must not be suggested for them.
BEYOND = {
    **dict.fromkeys(
        (
            "bailing_hybrid", "bamba", "falcon_h1", "falcon_mamba", "glm5_next_text", "jamba", "kimi_linear", "lara_mini", "lfm2", "lfm2_moe",
            "lfm3", "mamba", "mamba2", "minimax", "nemotron_h", "olmo_hybrid", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text",
            "qwen3_next", "qwen4_exp", "qwen4_exp_text", "recurrent_gemma", "rwkv", "xlstm", "zamba", "zamba2",
        ),
        "layers without softmax attention (state spaces, convolutions or linear attention)",
    ),
    **dict.fromkeys(
        (
            "axk2", "deepseek_v32", "deepseek_v4", "dots3_note", "dots3_note_text", "glm_moe_dsa", "hy_v4", "hy_v4_vl_text", "minimax_m3_vl_text",
            "mistral_large4_text",
        ),
        "attention that an indexer makes sparse",
    ),
    **dict.fromkeys(("gemma3n", "gemma3n_text"), "embeddings of their own for each layer"),
    **dict.fromkeys(
        (
            "albert", "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "deberta", "deberta-v2", "distilbert", "electra",
            "ernie", "megatron-bert", "modernbert", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm", "xlm-roberta",
            "xlm-roberta-xl", "xlnet", "xmod",
        ),
        "attention to tokens that come later",
    ),
    **dict.fromkeys(("laguna", "step3p5"), "layers with more heads of queries than others"),
    **dict.fromkeys(("inkling2_loop_text", "inkling2_text", "inkling_text", "zaya"), "convolutions of keys and values"),
    **dict.fromkeys(("ctrl", "xglm"), "positions as sines"),
    **dict.fromkeys(("molmo2_text", "moshi"), "more tokens in the embedding than in the head"),
    "axk1": "a norm on what experts add, but not on what dense layers do",
    "beam": "residuals that are weighted by depth",
    "bitnet": "norms within attention and MLP",
    "blt": "bytes in patches of changing length",
    "cpmant": "positions as learned biases of the scores",
    "diffllama": "differences of two attentions",
    "doge": "masks that are made of the values",
    "dory": "a residual stream that keeps its length (nGPT)",
    "ernie4_5_vl_moe_text": "experts of images beside those of text",
    "gpt_neox_japanese": "a bias in the last layer alone",
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant"), "drafts of another model's tokens"),
    "hrm_text": "layers that are applied in nested loops",
    "jetmoe": "experts within attention",
    "longcat_flash": "two attentions and MLPs a layer, with experts beside them",
    "mimo_v2_flash": "values narrower than keys",
    "mllama_text_model": "attention to images",
    "modernbert-decoder": "a first layer without a norm",
    "muse_glimmer_text": "a norm without a weight on the embedding, beside norms with one",
    "muse_spark_text": "gates of the residual stream",
    "moshi_depth": "weights of their own for each codebook",
    "reformer": "attention within hashed buckets",
    "voxtral_realtime_text": "MLPs whose input is scaled by a delay",
}  # fmt: skip
# Types for more than text, of encoders or of diffusion, whose names are near to a decoder's.
NAMESAKES = {"colqwen2", "glmga", "llada", "llava", "medgemma", "mistral3", "mllama", "molmo", "molmo2", "mpnet", "pixtral"}
SECTIONS = {"vision_config": "images", "audio_config": "audio", "image_size": "images", "patch_size": "images", "num_mel_bins": "audio"}


def model_type(at: Source) -> ModelType:
    """The table of the file's model_type, or an error that says what the file is instead."""
    raw, name = at.fields, at.fields.get("model_type")
    name = ALIASES.get(name, name) if isinstance(name, str) else name
    supported = f"supported: {', '.join(sorted(TYPES))}"
    if raw.get("is_encoder_decoder") is True or (isinstance(name, str) and name in ENCODER_DECODERS):
        raise SpecError([at.problem("model_type", f"{show(name)} is an encoder-decoder; only decoder-only models can be billed; {supported}")])
    if isinstance(name, str) and name in TYPES:
        # A supported type with a tower of its own would be under-counted.
        for key in TOWERS:
            if raw.get(key) is not None:
                text = f"this model reads {SECTIONS[key]} too; only its text decoder can be billed: remove this section for that"
                raise SpecError([at.problem(key, f"{text}{_decoder(at)}")])
        # As the library's AutoConfig does, but not in a section: Ministral's published file calls itself mistral.
        if name == "mistral" and "layer_types" in raw and not at.around:
            return TYPES["ministral"]
        return TYPES["deepseek_ocr2_text" if name == "deepseek_v2" and raw.get("use_mla") is False else name]
    for key, what in SECTIONS.items():
        if raw.get(key) is not None:
            text = f"{show(name)} is a model of {what} ({key}); only text decoders can be billed"
            raise SpecError([at.problem("model_type", f"{text}{_decoder(at)}")])
    if name is None:
        raise SpecError([at.problem("model_type", f"missing: is this the config.json of a model? {supported}")])
    if isinstance(name, str) and name in BEYOND:
        raise SpecError([at.problem("model_type", f"{show(name)}: its {_beyond(name)}; {supported}")])
    near = _meant(str(name).lower())
    hint = f"did you mean {near}? " if near else ""
    if inner := _section(at):
        raise SpecError([at.problem("model_type", f"{show(name)} is a larger model{inner}")])
    raise SpecError([at.problem("model_type", f"{show(name)} is not supported; {hint}{supported}; a spec written by hand may say what it is")])


def _beyond(name: str) -> str:
    return f"models may have {BEYOND[name]}, which no spec can describe"


def _meant(name: str) -> str | None:
    """The type of which `name` is a misspelling. A longer name, or one with another number (ernie4_5_vl_moe, minicpm), is another type."""
    if f"{name}_text" in TYPES:
        return f"{name}_text"
    if name in NAMESAKES:
        return None

    def misspells(kind: str) -> bool:
        (words, numbers), (own, its) = ((re.split("[-_. ]", text), re.findall(r"\d+", text)) for text in (name, kind))
        alike = all(get_close_matches(word, [other], 1, 0.6) for word, other in zip(words, own, strict=False))
        return "".join(words) == "".join(own) or (numbers == its and len(words) == len(own) and alike)

    return next(filter(misspells, get_close_matches(name, [*TYPES, *ALIASES], 5, 0.75)), None)


def _decoder(at: Source) -> str:
    """Where the config of a text decoder stands in that of a model of images or audio."""
    flat = f"{at.fields.get('model_type')}{OF_TEXT}" in {*TYPES, *ALIASES} and "hidden_size" in at.fields
    return _section(at) or (f"; its fields stand beside: give {at.part(TEXT_SECTION)}" if flat else "")


def _section(at: Source) -> str:
    """Which section is a text decoder's own, and can be read; or why it cannot. The outermost goes first."""
    why = ""
    around = [("", at.fields)]
    for path, fields in around:
        sections = [(f"{path}{key}", value) for key, value in fields.items() if isinstance(value, Mapping)]
        around += [(f"{name}.", value) for name, value in sections]
        for name, value in sections:
            inner = value.get("model_type")
            if not isinstance(inner, str):
                continue
            own = f"; its own is the section {name} (model_type {show(inner)})"
            if inner in TYPES or inner in ALIASES:
                return f"{own}: give {at.part(name)}"
            if name.rpartition(".")[2] == TEXT_SECTION:
                why = why or f"{own}, {f'whose {_beyond(inner)}' if inner in BEYOND else 'which is not supported'}"
    return why

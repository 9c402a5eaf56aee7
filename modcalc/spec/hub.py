"""config.json of the transformers library -> Spec.

Every field is understood, known to cost nothing, or an error that names it (`hub_fields`); which is which, each type's defaults and the knob that a
field sets are tables: `hub_rmsnorm`, `hub_outnorm`, `hub_layernorm`, `hub_nested`, `hub_cohere`, `hub_experts`, `hub_deepseek`, `hub_text`,
`hub_gemma4`. What costs nothing is not carried where the spec has no knob for it (RoPE scaling, dropout): a Spec bills the model, it does not load
its weights.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from modcalc.errors import SpecError
from modcalc.spec.hub_cohere import COHERE_TYPES
from modcalc.spec.hub_deepseek import DEEPSEEK
from modcalc.spec.hub_experts import EXPERTS
from modcalc.spec.hub_fields import DROPPED, FIXED, FREE, KINDS, alike, same, show, wrong
from modcalc.spec.hub_gemma4 import GEMMA4
from modcalc.spec.hub_layernorm import LAYERNORM
from modcalc.spec.hub_nested import NESTED
from modcalc.spec.hub_outnorm import OUTNORM
from modcalc.spec.hub_parts import UNROTATED, ModelType
from modcalc.spec.hub_read import OF_TEXT, TEXT_SECTION, TIED, TOWERS, WHOLE_TIED, Source, read_config
from modcalc.spec.hub_rmsnorm import RMSNORM
from modcalc.spec.hub_rope import odd_rotation, sections
from modcalc.spec.hub_rules import Config, Refused
from modcalc.spec.hub_text import TEXT
from modcalc.spec.imported import DEFAULTED, NOT_CARRIED
from modcalc.spec.schema import Spec
from modcalc.spec.validate import checked

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


def from_config(source: str | Path | Mapping[str, Any], section: str | None = None) -> Spec:
    """The Spec of a model of the transformers library (versions 4 and 5).

    source: a config.json, a folder that holds one, or its content as a dict. section: the field that holds the config of the
    text decoder, in that of a model of images or audio. Fields that the file omits take the library's own defaults for its
    model_type. seq_len is the longest sequence that the model is made for.

    Raises SpecError with every problem found: no JSON (with the line), a model_type that is no supported decoder, an
    unknown field, a value of a wrong type, values that make no model.
    """
    at = read_config(source, section)
    kind = _model_type(at)
    layers = at.fields.get("num_hidden_layers", kind.defaults["num_hidden_layers"])
    raw = {key: alike(value, layers) if key in kind.per_layer else value for key, value in at.fields.items()}
    problems = [at.problem(key, text) for key, text in _unknown(raw, kind)] + _architectures(at)
    config, bad = _config(raw, kind)
    problems += [at.problem(key, text) for key, text in bad]
    if problems:
        raise SpecError(problems)
    values = _evaluate(config, kind, at)
    values["name"] = at.name
    values["description"] = _description(at, config, kind, odd_rotation(config, values.get("positions", {}).get("fraction")))
    spec, wrongs = checked(values)
    if spec is None:
        raise SpecError([f"{at.label}: as a spec, {problem}" for problem in wrongs])
    return spec


def _model_type(at: Source) -> ModelType:
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


def _unknown(raw: Mapping[str, Any], kind: ModelType) -> Iterator[tuple[str, str]]:
    """Fields in none of the three sets, and fields that the library does not read but that say what it does not build."""
    fixed = FIXED | kind.fixed | (UNROTATED if kind.whole_heads else {})
    known = {*kind.defaults, *kind.names, *kind.free, *fixed, *FREE}
    for key, value in raw.items():
        allowed = fixed.get(key)
        if allowed is not None and key not in kind.defaults:
            if not any(same(value, a) for a in allowed):
                yield key, f"{show(value)}; models of this model_type have only {show(allowed[0])} here, anything else could cost more"
        elif key not in known:
            # What is said already was not meant; a field that sets a size goes before one that costs nothing.
            near = get_close_matches(key, {*kind.defaults, *kind.names} - raw.keys(), 1, 0.7) or get_close_matches(key, known - raw.keys(), 1, 0.85)
            hint = f"did you mean {near[0]}? if it changes nothing, remove it" if near else "correct it, or remove it if it does not"
            yield key, f"unknown for this model_type, so it may change what the model costs; {hint}"


def _architectures(at: Source) -> list[str]:
    """A class that is no plain language model with its head is another model, whatever the rest of the file says; a section has that of the whole."""
    names = at.fields.get("architectures")
    if names is None or at.around:
        return []
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        return [at.problem("architectures", f"{show(names)} is not a list of class names")]
    if not names or any(n.endswith(("ForCausalLM", "LMHeadModel")) for n in names):
        return []
    return [
        at.problem(
            "architectures", f"{show(names)} names no plain language model (…ForCausalLM); remove this field to bill the one of the same shape"
        )
    ]


def _config(raw: Mapping[str, Any], kind: ModelType) -> tuple[Config, list[tuple[str, str]]]:
    """Understood fields by their canonical names, with defaults; and what is wrong with their values."""
    config, bad, found = Config(kind.defaults), [], {}
    for key, value in raw.items():
        field = kind.names.get(key, key)
        if field not in kind.defaults:
            continue
        if field in found and not same(raw[found[field]], value):
            bad.append((key, f"{show(value)}, but {found[field]}, which means the same, is {show(raw[found[field]])}"))
        found[field] = key
        if field in kind.zeros and same(value, 0):
            value = None
        if value is None and KINDS[field] == "section":
            value = kind.defaults[field]
        problem = None if value is None and field in kind.nulls else wrong(field, value)
        if problem:
            bad.append((key, problem))
        config[field] = False if value is None and KINDS[field] == "flag" else value
    return config, bad


def _evaluate(config: Config, kind: ModelType, at: Source) -> dict[str, Any]:
    """Knobs as nested data, what has the spec's default left out."""
    names = {field: key for key, field in kind.names.items() if key in at.fields}
    values: dict[str, Any] = {}
    problems: list[str] = []

    def run(rule: Callable[[Config], Any]) -> Any:
        try:
            return rule(config)
        except Refused as refused:
            problem = at.problem(names.get(refused.field, refused.field), refused.text)
            if problem not in problems:
                problems.append(problem)
            return None

    for check in (kind.rotation, *kind.checks) if kind.whole_heads else kind.checks:
        run(check)
    left_out = {section for section, rule in kind.only_if.items() if not run(rule)}
    for path, rule in kind.knobs.items():
        steps = path.split(".")
        if any(".".join(steps[:n]) in left_out for n in range(1, len(steps) + 1)):
            continue
        value = run(rule) if callable(rule) else rule
        if value is not None:
            section = values
            for step in steps[:-1]:
                section = section.setdefault(step, {})
            section[steps[-1]] = value
    if problems:
        raise SpecError(problems)
    return values


# Of sizes and counts, those that most files leave to the class and that make no model larger. A file without another one is a stump more often
# than the library's default model, or another model under this type.
USUAL = {
    "decoder_sparse_step", "first_k_dense_replace", "global_attn_every_n_layers", "interleave_moe_layer_step", "max_position_embeddings",
    "max_seq_len", "max_window_layers", "moe_layer_interval", "moe_layer_start_index", "n_group", "no_rope_layer_interval", "num_dense_layers",
    "seq_length", "sliding_window", "topk_group", "window_size",
}  # fmt: skip


def _description(at: Source, config: Config, kind: ModelType, odd: str | None) -> str:
    """What the file says that the spec does not, and the sizes that it does not say. odd: see `odd_rotation`."""
    raw = at.fields
    given = {kind.names.get(key, key) for key in raw}
    own = {field: key for key, field in kind.names.items()}
    sizes = {field: n for field, n in kind.defaults.items() if n and KINDS[field] in ("size", "count", "layers") and field not in USUAL}
    silent = [f"{own.get(field, field)} {n}" for field, n in sizes.items() if field not in given]
    dropped = [f"the part for {what} ({key})" for key, what in SECTIONS.items() if at.around.get(key) is not None]
    dropped += [what for key, (what, plain) in DROPPED.items() if key in raw and not any(same(raw[key], p) for p in plain)]
    for _, section in sections(config, kind.by_layer):
        types = [s.get("rope_type") or s.get("type") for s in (section, *section.values()) if isinstance(s, Mapping)]
        dropped += sorted({f"{name} RoPE scaling" for name in types if name not in (None, "default")})
        # Ministral 3: a factor on queries that grows with their position.
        dropped += ["queries scaled by position"] if section.get("llama_4_scaling_beta") else []
    dropped += [text for text in (*(rule(config) for rule in kind.dropped), odd) if text]
    text = f"Imported from a config.json of the transformers library, model_type {raw['model_type']}."
    text += f" {DEFAULTED}{', '.join(silent)}." if silent else ""
    if TIED in raw and at.around and TIED not in at.around and at.around.get("model_type") not in WHOLE_TIED:
        text += f" {'Tied' if config[TIED] else 'Not tied'} as this section says; version 5 of the library may go by its default for the whole."
    return f"{text} {NOT_CARRIED}{', '.join(dict.fromkeys(dropped))}." if dropped else text

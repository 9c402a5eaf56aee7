"""config.json of the transformers library -> Spec.

Every field is understood, known to cost nothing, or an error that names it (`hub_fields`); which is which, each type's defaults and the knob that a
field sets are tables: `hub_rmsnorm`, `hub_outnorm`, `hub_layernorm`, `hub_nested`, `hub_cohere`, `hub_experts`, `hub_deepseek`, `hub_text`,
`hub_gemma4`. What costs nothing is not carried where the spec has no knob for it (RoPE scaling, dropout): a Spec bills the model, it does not load
its weights.
"""

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from modcalc.errors import SpecError
from modcalc.spec.hub_fields import DROPPED, FIXED, FREE, KINDS, alike, same, show, wrong
from modcalc.spec.hub_parts import UNROTATED, ModelType
from modcalc.spec.hub_read import TIED, WHOLE_TIED, Source, read_config
from modcalc.spec.hub_rope import odd_rotation, sections
from modcalc.spec.hub_rules import Config, Refused
from modcalc.spec.hub_types import SECTIONS, model_type
from modcalc.spec.imported import DEFAULTED, NOT_CARRIED
from modcalc.spec.schema import Spec
from modcalc.spec.validate import checked


def from_config(source: str | Path | Mapping[str, Any], section: str | None = None) -> Spec:
    """The Spec of a model of the transformers library (versions 4 and 5).

    source: a config.json, a folder that holds one, or its content as a dict. section: the field that holds the config of the
    text decoder, in that of a model of images or audio; with dots where it is within another. Fields that the file omits take the
    library's own defaults for its model_type. seq_len is the longest sequence that the model is made for.

    Raises SpecError with every problem found: no JSON (with the line), a model_type that is no supported decoder, an
    unknown field, a value of a wrong type, values that make no model.
    """
    at = read_config(source, section)
    kind = model_type(at)
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

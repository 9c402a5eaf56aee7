"""What a misspelt word probably meant."""

from collections.abc import Iterable, Mapping

# What other tools call our keys, where no near match would find it.
SYNONYMS = {
    "hidden_size": "d_model",
    "dim": "d_model",
    "num_hidden_layers": "n_layers",
    "depth": "n_layers",
    "num_attention_heads": "attention.n_heads",
    "num_key_value_heads": "attention.n_kv_heads",
    "intermediate_size": "mlp.d_ff",
    "max_position_embeddings": "seq_len",
    "context_length": "seq_len",
    "tie_word_embeddings": "head.tied",
    "rope_theta": "positions.theta",
    "no_rope_layers": "positions.rotated",
    "hidden_act": "mlp.activation",
    "sliding_window": "attention.window",
    "attention_chunk_size": "attention.window, with attention.chunked",
    "global_head_dim": "attention.full.head_dim",
    "num_global_key_value_heads": "attention.full.n_kv_heads",
    "attention_k_eq_v": "attention.full.values_from_keys",
    "num_experts": "moe.n_experts",
    "num_experts_per_tok": "moe.top_k",
    "top_k_experts": "moe.top_k",
    "embedding_multiplier": "embedding.scale",
    "residual_multiplier": "residual_scale",
    "logit_scale": "head.scale",
    "logits_scaling": "head.scale, 1 over this",
    "<<": "a copy of the keys; merge keys are not read",
}


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The one of `words` that was probably meant."""
    from difflib import get_close_matches

    known: dict[str, str] = {}
    for other in words:
        known.setdefault(other.lower(), other)
    return next((known[near] for near in get_close_matches(word[:60].lower(), known, 1, 0.6)), None)


def hint(word: str, words: Iterable[str]) -> str:
    """The end of a message that lists `words`."""
    near = nearest(word, words)
    return f"; did you mean {near}?" if near else ""


def key_hint(key: str, here: list[str], homes: Mapping[str, list[str]]) -> str:
    """What to write for an unknown key. here: keys of its section; homes: key -> the dotted paths where the schema has it."""
    from difflib import SequenceMatcher

    key = str(key)
    if key in SYNONYMS:
        return f"write {SYNONYMS[key]}"
    same = [word for word in here if word.lower() == key.lower()]
    if same:
        return f"did you mean {same[0]}?"
    # A key of the section goes before one from elsewhere that is as near.
    near = {word: SequenceMatcher(None, word, key[:60]).ratio() + 0.1 * (word in here) for word in {**dict.fromkeys(here), **homes}}
    best = max(near, key=near.__getitem__)
    return f"did you mean {best if best in here else ' or '.join(homes[best][:3])}?" if near[best] >= 0.7 else ""

"""Rules of a config.json that say which layers have windows or positions: see `hub_rules`."""

from collections.abc import Callable
from typing import Any

from modcalc.spec.hub_fields import show
from modcalc.spec.hub_rope import rope_theta
from modcalc.spec.hub_rules import Config, Refused, Rule, of, read_instead


def pattern(values: list) -> Any:
    """The shortest list that gives `values` when repeated; its entry alone if there is only one."""
    period = next(n for n in range(1, len(values) + 1) if values[n:] == values[:-n])
    return values[:period] if period > 1 else values[0]


def each_layer(c: Config, field: str) -> list | None:
    """A field with an entry for every layer, if it is given."""
    values, L = c[field], c["num_hidden_layers"]
    if values is not None and len(values) != L:
        raise Refused(field, f"{len(values)} entries for num_hidden_layers {L}")
    return values


def layered_window(
    default: Callable[[Config, int], bool], switch: str | None = None, field: str = "sliding_window", name: str = "sliding_attention"
) -> Rule:
    """Windows by layer_types, or where `default(config, layer)` says so; none at all if the flag `switch` is off.

    field: that of their width. name: what layer_types calls them.
    """
    known = {name: True, "full_attention": False, "attention": False}

    def rule(c: Config) -> Any:
        types = each_layer(c, "layer_types")
        window = c[field] if switch is None or c[switch] else None
        if types is None:
            if switch and window is None:
                return None
            sliding = [default(c, i) for i in range(c["num_hidden_layers"])]
        else:
            for given in types:
                if given not in known:
                    raise Refused("layer_types", f"{show(given)} is neither {name} nor full_attention, which alone are understood here")
            sliding = [known[given] for given in types]
        if window is None and any(sliding):
            off = switch if switch and not c[switch] else field
            raise Refused(off, f"{show(c[off])}, but layers have {name}, which needs a window")
        return pattern([window if slides else None for slides in sliding])

    return rule


def but_each(field: str) -> Callable[[Config, int], bool]:
    """All layers but each n-th, the field being n."""

    return lambda c, i: not_last(c, field, i)


def not_last(c: Config, field: str, i: int) -> bool:
    """Whether i, from 0, is not the last of its n, the field being n."""
    if type(c[field]) is not int:
        raise Refused(field, f"{show(c[field])} without layer_types, where a number is needed: add them")
    return (i + 1) % c[field] != 0


def neo_window(c: Config) -> Any:
    """GPT-Neo: attention types layer by layer, or in runs [[names, how often], …]; local layers see window_size tokens."""
    runs, names, L = c["attention_types"], c["attention_layers"], c["num_hidden_layers"]
    field = "attention_types" if names is None else "attention_layers"
    if names is None or runs is not None:
        runs = runs or [[["global", "local"], 12]]
        n = sum(len(types) * times for types, times in runs)
        if n != L:
            raise Refused("attention_types", f"{n} layers for num_hidden_layers {L}")
        spelt = [name for types, times in runs for _ in range(times) for name in types]
        if names not in (None, spelt):
            raise Refused("attention_layers", "other layers than those of attention_types")
        names = spelt
    else:
        each_layer(c, "attention_layers")
    for name in names:
        if name not in ("global", "local"):
            raise Refused(field, f"{show(name)} is neither global nor local")
    return pattern([c["window_size"] if name == "local" else None for name in names])


def unrotated(rotates: Callable[[Config], list[bool]]) -> dict[str, Rule]:
    """Rotary positions in those layers alone where `rotates` says so."""
    return {
        "positions.kind": lambda c: "rotary" if any(rotates(c)) else "none",
        "positions.theta": lambda c: rope_theta(c) if any(rotates(c)) else None,
        "positions.rotated": lambda c: pattern(rotates(c)) if 0 < sum(rotates(c)) < len(rotates(c)) else None,
    }


def smollm_window(c: Config) -> Any:
    """SmolLM3: windows are those of layer_types if there is one, else of use_sliding_window on the layers that are not rotated."""
    if c["layer_types"] is not None:
        return layered_window(lambda c, i: False)(c)
    return layered_window(lambda c, i: not smollm_rotates(c)[i], "use_sliding_window")(c)


def smollm_rotates(c: Config) -> list[bool]:
    """SmolLM3: 1 in no_rope_layers is a layer that is rotated; without the list every no_rope_layer_interval-th is not."""
    L, flags = c["num_hidden_layers"], c["no_rope_layers"]
    if flags is None:
        return [but_each("no_rope_layer_interval")(c, i) for i in range(L)]
    if len(flags) < L:
        raise Refused("no_rope_layers", f"{len(flags)} entries for num_hidden_layers {L}")
    return [flag > 0 for flag in flags[:L]]


def llama4_rotates(c: Config) -> list[bool]:
    """Llama 4: as SmolLM3, an empty list being none."""
    return smollm_rotates(Config(c, no_rope_layers=c["no_rope_layers"] or None))


def windowed(window: Rule) -> Callable[[Config], list[bool]]:
    """Which layers have a window, by the rule for windows (Command R7B rotates these alone)."""

    def rule(c: Config) -> list[bool]:
        found = window(c)
        found = found if isinstance(found, list) else [found]
        return [found[i % len(found)] is not None for i in range(c["num_hidden_layers"])]

    return rule


LLAMA4_WINDOW = layered_window(lambda c, i: llama4_rotates(c)[i], field="attention_chunk_size", name="chunked_attention")


def gemma_pattern(c: Config) -> None:
    """Gemma 3: saved files may have _sliding_window_pattern, which the class does not read; where layer_types is set, neither matters."""
    if c["layer_types"] is None:
        read_instead("_sliding_window_pattern", "sliding_window_pattern", of("sliding_window_pattern"))(c)


# EXAONE 4: a pattern in letters needs layer_types.
exaone_window = layered_window(but_each("sliding_window_pattern"))


def exaone_rotates(c: Config) -> list[bool]:
    return [True] * c["num_hidden_layers"] if c["sliding_window"] is None else windowed(exaone_window)(c)


kolibri_window = layered_window(lambda c, i: (i + 1) % 5 != 0)

# Flint: none in the first two layers, each fourth from the second on, and the last.
flint_window = layered_window(lambda c, i: i >= 2 and i % 4 != 1 and i + 1 != c["num_hidden_layers"])


def switched_window(c: Config) -> int | None:
    """One window for all layers, behind use_sliding_window."""
    return c["sliding_window"] if c["use_sliding_window"] else None


def no_state_spaces(c: Config) -> None:
    """Granite 4: layers are state spaces unless layer_types says otherwise of each."""
    kinds = each_layer(c, "layer_types")
    if kinds is None:
        raise Refused("layer_types", "left out, and then every layer is a state space, which no spec has")
    for name in kinds:
        if name not in ("attention", "full_attention"):
            raise Refused("layer_types", f"a layer is {show(name)}; only attention (full_attention) is understood here, for no spec has state spaces")


def all_softmax_attention(c: Config) -> None:
    """MiniMax-M2: 1 in attn_type_list is a layer with softmax attention, which all are."""
    if any(kind != 1 for kind in c["attn_type_list"] or ()):
        raise Refused("attn_type_list", "a layer without softmax attention, which this model_type does not have")

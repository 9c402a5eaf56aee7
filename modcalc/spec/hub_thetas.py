"""Rules of a config.json that say a rotary base for each layer: see `hub_rules`."""

from collections.abc import Callable
from typing import Any

from modcalc.spec.hub_layers import each_layer, layered_window, unrotated, windowed
from modcalc.spec.hub_rope import rope_theta, theta_of_layers
from modcalc.spec.hub_rules import Config, Refused, Rule

Thetas = Callable[[Config], list[float]]


def theta_of(thetas: Thetas, window: Rule, has_window: bool) -> Rule:
    """The base of the layers with a window, or of the others; a spec has one of each."""

    def rule(c: Config) -> float | None:
        own = {theta for theta, sliding in zip(thetas(c), windowed(window)(c), strict=True) if theta and sliding == has_window}
        if len(own) > 1:
            which = "with" if has_window else "without"
            raise Refused("layer_rope_theta", f"{len(own)} bases for layers {which} a window, of which a spec has one")
        return float(own.pop()) if own else None

    return rule


def rotated_by(thetas: Thetas, window: Rule) -> dict[str, Rule]:
    """Knobs for a base of each layer, 0 for one that is not rotated."""
    full, local = theta_of(thetas, window, False), theta_of(thetas, window, True)

    def other(c: Config) -> float | None:
        return None if full(c) in (None, local(c)) else local(c)

    return {
        **unrotated(lambda c: [theta > 0 for theta in thetas(c)]),
        "positions.theta": lambda c: full(c) or local(c),
        "positions.local_theta": other,
        "attention.window": window,
    }


def granite_thetas(c: Config) -> list[float]:
    """Granite with windows."""
    thetas = each_layer(c, "layer_rope_theta")
    return [rope_theta(c)] * c["num_hidden_layers"] if thetas is None else thetas


def compass_thetas(c: Config) -> list[float]:
    """Cohere Compass: a section for each type of layer, null for one that is not rotated."""
    sections: dict[str, Any] = c["rope_parameters"] or {}
    found = {}
    types = c["layer_types"] or ["full_attention"] * c["num_hidden_layers"]
    for kind in dict.fromkeys(types):
        if kind not in sections:
            raise Refused("rope_parameters", f"no {kind}, of which there are layers: its rotary settings are needed, or null for none")
        found[kind] = 0.0 if sections[kind] is None else theta_of_layers(kind, 0.0, lambda c: True)(c)
    return [found[kind] for kind in types]


GRANITE_SWA = {**rotated_by(granite_thetas, layered_window(lambda c, i: i % 4 != 0)), "attention.sinks": True}
COMPASS = rotated_by(compass_thetas, layered_window(lambda c, i: False))

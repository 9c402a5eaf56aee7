"""Rules of a config.json about rotary positions: see `hub_rules`.

Version 5 of the transformers library keeps in a section what version 4 had in fields of their own, which it still reads where the
section does not say. Which class reads what is as in its release 5.24.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from modcalc.spec.hub_fields import show
from modcalc.spec.hub_rules import Config, Refused, Rule, head_width
from modcalc.spec.resolve import exact

THETA = 10000.0
OLMO_3_THETA = 500000.0
# Where a file has no section.
MINISTRAL_3 = {"rope_type": "yarn", "rope_theta": 1000000.0, "llama_4_scaling_beta": 0.1}
MISTRAL_4 = {"rope_type": "yarn", "rope_theta": 10000.0, "llama_4_scaling_beta": 0.1}
APERTUS = {"rope_type": "llama3", "rope_theta": 12000000.0}
CWM = {"rope_type": "llama3", "rope_theta": 1000000.0}
LAYERS = ("full_attention", "sliding_attention")


class Section(NamedTuple):
    """Rotary settings, and the field that holds them."""

    field: str
    values: dict[str, Any]

    def number(self, key: str) -> float | None:
        value = self.values.get(key)
        if value is None:
            return None
        if type(value) not in (int, float) or not 0 < value < 10**300:
            raise Refused(self.field, f"{key}: {show(value)} is not a number above 0")
        return float(value)


def sections(c: Config, by_layer: bool = False) -> list[Section]:
    """What is read of a file, or of the class's own: rope_scaling, where it is not empty, replaces rope_parameters, or adds to settings
    by type of layer.
    """
    found = [Section(field, c[field]) for field in ("rope_scaling", "rope_parameters") if c.get(field)]
    return found if by_layer else found[:1]


def _one(c: Config) -> Section:
    """The section that is read by classes with one for all layers."""
    section = next(iter(sections(c)), Section("rope_parameters", {}))
    if any(isinstance(value, dict) for value in section.values.values()):
        raise Refused(section.field, f"{show(section.values)}: this model_type has one set of rotary settings, and none by type of layer")
    return section


def _of_layers(c: Config, kind: str) -> Section:
    """The section of one type of layer, which are all that Gemma 3 and OLMo 3 read; rope_scaling adds to that of full attention."""
    given = c["rope_parameters"] or {}
    own, more = given.get(kind) or {}, (c.get("rope_scaling") or {}) if kind == "full_attention" else {}
    if (given and not given.keys() & set(LAYERS)) or not isinstance(own, dict):
        raise Refused("rope_parameters", f"{show(given)}: this model_type reads the sections {' and '.join(LAYERS)} of it alone")
    return Section("rope_scaling" if more else "rope_parameters", {**own, **more})


def theta_beside(field: str) -> Rule:
    """The rotary base: in the section, or beside it in `field`."""
    return lambda c: _one(c).number("rope_theta") or float(c[field])


rope_theta = theta_beside("rope_theta")


def falcon_theta(c: Config) -> float | None:
    return None if c["alibi"] else rope_theta(c)


def theta_or_that_of(own: dict[str, Any]) -> Rule:
    """The rotary base of classes that have a section of their own where a file has none, and then do not read rope_theta."""

    def rule(c: Config) -> float:
        theta, beside = _one(c).number("rope_theta"), c["rope_theta"]
        if beside is not None and _one(c).values is own and beside != theta:
            raise Refused("rope_theta", f"{show(beside)}: without rope_parameters the transformers library takes {theta:g}; write it in that section")
        return theta or float(beside or THETA)

    return rule


def full_theta(c: Config) -> float:
    """Gemma 3 and OLMo 3: the base of layers without a window."""
    return _of_layers(c, "full_attention").number("rope_theta") or float(c["rope_theta"])


def gemma_local_theta(c: Config) -> float:
    """Gemma 3: the base of windowed layers."""
    return _of_layers(c, "sliding_attention").number("rope_theta") or float(c["rope_local_base_freq"])


def theta_of_layers(kind: str, default: float, has: Callable[[Config], bool]) -> Rule:
    """Mellum: the base of one type of layer, if there are such, which their section must say where there are sections."""

    def rule(c: Config) -> float | None:
        theta = _of_layers(c, kind).number("rope_theta")
        if has(c) and c["rope_parameters"] and theta is None:
            raise Refused("rope_parameters", f"no rope_theta in {kind}, of which there are layers")
        return theta or default if has(c) else None

    return rule


def olmo_local_theta(c: Config) -> float | None:
    """OLMo 3: the base of windowed layers where theirs is another; rope_theta beside the sections is that of the rest alone."""
    theta = _of_layers(c, "sliding_attention").number("rope_theta") or OLMO_3_THETA
    return None if theta == full_theta(c) else theta


def fraction_beside(field: str) -> Rule:
    """Share of head_dim that is rotated: in the section, or beside it in `field`, where null is all of it."""

    def rule(c: Config) -> float | None:
        value = _one(c).number("partial_rotary_factor") or float(c[field] or 1.0)
        if value > 1:
            raise Refused(field, f"{value} is above 1")
        N = head_width(c)
        rotated = int(N * value)  # in floats, as the library does; a spec is exact
        return None if value == 1 else value if int(exact(value) * N) == rotated else _share(rotated, N)

    return rule


def _share(dims: int, N: int) -> float:
    """What share of N dims these are, rounded up to the sixth digit."""
    return -(-dims * 10**6 // N) / 10**6


rope_fraction = fraction_beside("partial_rotary_factor")


def fraction_or_dims(c: Config) -> float | None:
    """MiniMax-M2: the share as such, where the file says it, or else as rotary_dim."""
    said = c["partial_rotary_factor"] is not None or _one(c).number("partial_rotary_factor") is not None
    return rope_fraction(c) if said else rotary_dims(c)


def rotary_dims(c: Config) -> float | None:
    """Share of head_dim that rotary_dim is; all of it where that is null."""
    R, N = c["rotary_dim"], head_width(c)
    if R is None or R == N:
        return None
    if R > N or R % 2:
        raise Refused("rotary_dim", f"{R} is no even number up to the {N} dims of a head")
    return _share(R, N)


def odd_rotation(c: Config, fraction: float | None) -> str | None:
    """What a spec does not say of a share that is an odd number of dims: the library turns one more, by other angles."""
    if fraction is None or "partial_rotary_factor" not in c:  # else they are counted as such, and even
        return None
    rotated = int(head_width(c) * fraction)  # rounded as the library does
    return f"the rotation of {rotated} dims, an odd number" if rotated % 2 else None


def all_rotated(c: Config) -> None:
    """For types that rotate whole heads whatever the file says."""
    _whole(_one(c))


def latent_rotated(c: Config) -> None:
    """Mistral 4: the share of a head that is rotated repeats qk_rope_head_dim."""
    section, R = _one(c), c["qk_rope_head_dim"]
    N = R + c["qk_nope_head_dim"]
    share = section.number("partial_rotary_factor")
    if share is not None and int(N * share) != R:
        raise Refused(section.field, f"partial_rotary_factor: {share} of {N} dims is not qk_rope_head_dim {R}")


def all_rotated_by_layer(c: Config) -> None:
    for kind in LAYERS:
        _whole(_of_layers(c, kind))


def _whole(section: Section) -> None:
    value = section.number("partial_rotary_factor")
    if value not in (None, 1.0):
        raise Refused(section.field, f"partial_rotary_factor: {value}: this model_type rotates whole heads, so 1 or nothing is needed")

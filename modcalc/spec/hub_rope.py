"""Rules of a config.json about rotary positions: see `hub_rules`.

Version 5 of the transformers library keeps what version 4 had in fields of their own in a section, and reads the fields where the
section does not say; which class reads which is facts of its release 5.23.
"""

from modcalc.spec.hub_fields import show
from modcalc.spec.hub_rules import Config, Refused, Rule, head_width


def rope_sections(c: Config, by_layer: bool = False) -> list[dict]:
    """The sections that hold rotary settings: rope_scaling, where it is not empty, replaces rope_parameters, or adds to settings by
    type of layer.
    """
    sections = [section for field in ("rope_scaling", "rope_parameters") if (section := c.get(field))]
    return sections if by_layer else sections[:1]


def _rope(c: Config) -> dict:
    """The section that is read, by classes whose layers have one for all."""
    section = next(iter(rope_sections(c)), {})
    if any(isinstance(value, dict) for value in section.values()):
        raise Refused("rope_parameters", f"{show(section)}: this model_type has one set of rotary settings, and none by type of layer")
    return section


def _rope_number(key: str, section: dict) -> float | None:
    value = section.get(key)
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 < value < 10**300:
        raise Refused("rope_parameters", f"{key}: {show(value)} is not a number above 0")
    return float(value)


def theta_beside(field: str) -> Rule:
    """The rotary base: version 5 keeps it in rope_parameters, version 4 beside it in `field`."""
    return lambda c: _rope_number("rope_theta", _rope(c)) or float(c[field])


rope_theta = theta_beside("rope_theta")


MINISTRAL_ROPE = {"rope_type": "yarn", "rope_theta": 1000000.0, "llama_4_scaling_beta": 0.1}


def theta_unless_default(c: Config) -> float:
    """Ministral 3: a section of its own stands in where the file has none, and then rope_theta is not read."""
    theta, beside = _rope_number("rope_theta", _rope(c)), c["rope_theta"]
    if beside is not None and c["rope_parameters"] is MINISTRAL_ROPE and not c["rope_scaling"] and beside != theta:
        raise Refused("rope_theta", f"{show(beside)}: without rope_parameters the transformers library reads its own, whose rope_theta is {theta:g}")
    return theta or float(beside or 10000.0)


def full_theta(c: Config) -> float:
    """Gemma 3 and OLMo 3, whose sections are by type of layer: rope_scaling is one of full attention."""
    section = {**_by_layer(c, "full_attention"), **(c["rope_scaling"] or {})}
    return _rope_number("rope_theta", section) or float(c["rope_theta"])


def _by_layer(c: Config, kind: str) -> dict:
    """The section of one type of layer, the only ones that these classes read."""
    sections = c["rope_parameters"] or {}
    found = sections.get(kind) or {}
    if (sections and not {"full_attention", "sliding_attention"} & sections.keys()) or not isinstance(found, dict):
        raise Refused("rope_parameters", f"{show(sections)}: this model_type reads the sections full_attention and sliding_attention of it alone")
    return found


def _local_theta(c: Config) -> float | None:
    return _rope_number("rope_theta", _by_layer(c, "sliding_attention"))


def rope_local_theta(c: Config) -> float | None:
    """Gemma 3: the base of windowed layers."""
    return _local_theta(c) or float(c["rope_local_base_freq"])


def rope_own_theta(c: Config) -> float | None:
    """OLMo 3: the base of windowed layers where theirs is another than that of the rest; rope_theta is that of the rest alone."""
    theta = _local_theta(c) or 500000.0
    return None if theta == full_theta(c) else theta


def falcon_theta(c: Config) -> float | None:
    return None if c["alibi"] else rope_theta(c)


def fraction_beside(field: str) -> Rule:
    """Share of head_dim that is rotated: in rope_parameters, or beside it in `field`, where null is all of it."""

    def rule(c: Config) -> float | None:
        value = _rope_number("partial_rotary_factor", _rope(c)) or float(c[field] or 1.0)
        if value > 1:
            raise Refused(field, f"{value} is above 1")
        return None if value == 1 else value

    return rule


rope_fraction = fraction_beside("partial_rotary_factor")


def odd_rotation(c: Config, fraction: float) -> str | None:
    """What a spec makes of an odd number of rotated dims: the library turns one more, by other angles."""
    rotated = int(head_width(c) * fraction)
    return f"the rotation of {rotated} dims, an odd number" if rotated % 2 else None


def rope_fraction_or_dims(c: Config) -> float | None:
    """MiniMax-M2: the share as such, where the file says it, or else as rotary_dim."""
    said = c["partial_rotary_factor"] is not None or _rope_number("partial_rotary_factor", _rope(c)) is not None
    return rope_fraction(c) if said else rotary_dims(c)


def rotary_dims(c: Config) -> float | None:
    """Share of head_dim that rotary_dim is, rounded up to the sixth digit; all of it where that is null."""
    R, N = c["rotary_dim"], head_width(c)
    if R is None or R == N:
        return None
    if R > N or R % 2:
        raise Refused("rotary_dim", f"{R} is no even number up to the {N} dims of a head")
    return -(-R * 10**6 // N) / 10**6


def all_rotated(c: Config) -> None:
    """For types that rotate whole heads whatever the file says."""
    for section in rope_sections(c, by_layer=True):
        for one in (section, *(value for value in section.values() if isinstance(value, dict))):
            value = _rope_number("partial_rotary_factor", one)
            if value not in (None, 1.0):
                raise Refused("partial_rotary_factor", f"{value}: this model_type rotates whole heads, so 1 or nothing is needed")

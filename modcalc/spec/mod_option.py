"""A `mod` section written on the command line: capacity=0.125,every=2."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from modcalc.errors import UsageError
from modcalc.spec.convert import Problem, dotted
from modcalc.spec.near import SYNONYMS
from modcalc.spec.schema import Mod, Spec
from modcalc.spec.validate import checked
from modcalc.spec.yaml_nodes import scalar

EXAMPLE = "capacity=0.125,every=2"


def apply_mod(spec: Spec, text: str) -> Spec:
    """`spec` as a Mixture-of-Depths model: its `mod` section, if it has one, is replaced by the one that `text` says.

    text: comma-separated key=value pairs of the schema's `mod` section. Values are written as in YAML (0.125, 256,
    null); a list joins its entries by + (layers=1+3+5), and a single entry may end with one (capacity=0.5+); a key inside a
    section has a dot (bypass.d_ff=64, capacity.kind=cosine). A budget is dropped: it was agreed for another model.

    Raises UsageError with every problem of `text`.
    """
    data = msgspec.to_builtins(spec)
    section = parse_mod(text)
    data.update(mod=section, name=f"{spec.name[:196]}-mod", budget=None)
    made, problems = checked(data, dict.fromkeys(_paths(section, ("mod",)), 1))  # else a default that is written passes where it does nothing
    if made is None:
        raise UsageError("\n".join(f"--mod {text}: {_dotted(problem)}" for problem in problems))
    return made


def _dotted(problem: Problem) -> Problem:
    """What a section in place of a value is, as it is written here."""
    _, section, keys = problem.allowed.partition("a mapping with ")
    if section and (problem.hint.startswith("did you mean {") or "number" not in problem.allowed):
        meant = dotted((*problem.path[1:], keys.split(", ")[0].split(" ")[0]))
        return msgspec.structs.replace(problem, hint=f"a key inside a section has a dot, as in {meant}=…")
    return msgspec.structs.replace(problem, hint=_as_option(problem))


def _as_option(problem: Problem) -> str:
    """A hint of the schema's, as it is written here: keys of `mod` alone, without the section, and lists joined by +."""
    hint, own_key = problem.hint, problem.found == "unknown key" and len(problem.path) == 2
    if own_key and problem.path[-1] in SYNONYMS:
        return ""
    asked = re.fullmatch(r"did you mean (.*)\?", hint)
    if asked and own_key:
        meant = [name.removeprefix("mod.") for name in asked[1].split(" or ") if name.startswith("mod.") or name in Mod.__struct_fields__]
        return f"did you mean {' or '.join(meant)}?" if meant else ""
    return re.sub(r"\[([^\]]+)\]", lambda found: found[1].replace(", ", "+"), hint)


def parse_mod(text: str) -> dict[str, Any]:
    """The pairs of `text` as nested data, not yet checked against the schema. Raises UsageError."""
    section: dict[str, Any] = {}
    for pair in text.split(","):
        key, equals, value = pair.partition("=")
        steps = key.strip().split(".")
        if not equals or not all(steps) or not value.strip():
            hint = (
                "; a list joins its entries by +, as in layers=1+3"
                if section and not equals and isinstance(scalar(pair.strip("[] ")), int | float)
                else ""
            )
            raise UsageError(f"--mod {text}: found {pair.strip()!r}; allowed key=value pairs joined by commas, such as {EXAMPLE}{hint}")
        inner = section
        for step in steps[:-1]:
            inner = inner.setdefault(step, {})
            if not isinstance(inner, dict):
                raise UsageError(f"--mod {text}: {step} is given as a value and as a section; keep one")
        if steps[-1] in inner:
            raise UsageError(f"--mod {text}: {key.strip()} is given twice; keep one")
        inner[steps[-1]] = _value(value.strip())
    if type(section.get("layers")) is int:
        section["layers"] = [section["layers"]]
    return section


def _paths(section: dict[str, Any], at: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The path of every key, sections included."""
    for key, value in section.items():
        yield (*at, key)
        if isinstance(value, dict):
            yield from _paths(value, (*at, key))


def _value(text: str) -> Any:
    """A scalar, or the entries of a list. The + of a number (1e+3, +1) joins nothing."""
    whole = scalar(text)
    if "+" not in text or not isinstance(whole, str):
        return whole
    return [scalar(entry.strip()) for entry in text.removesuffix("+").split("+")]

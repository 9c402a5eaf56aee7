"""Plain data -> Spec, with every structural problem of a file at once: unknown and missing keys, wrong types, values out of range.

msgspec decides at full speed; only where it refuses is the data walked beside the schema, to say what is wrong in plain words.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from math import isfinite
from typing import Any

import msgspec

from modcalc.spec.near import key_hint, nearest
from modcalc.spec.schema import Spec
from modcalc.spec.yaml_nodes import Path, Unusable, printable
from modcalc.units import cut

# Problems of one file that are told one by one; a file with more is no spec with mistakes, and hints take time.
TOLD = 50

# Stands for what is unusable.
LOST = object()
# Required, but of no consequence for other keys: something usable.
UNASKED = {"name": "?", "vocab_size": 1}


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong with one key."""

    path: Path
    found: str
    allowed: str
    hint: str = ""

    def __str__(self) -> str:
        return "; ".join(part for part in (f"{dotted(self.path)}: {self.found}", f"allowed {self.allowed}", self.hint) if part)


def dotted(path: Path) -> str:
    """mod.layers[2]."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{printable(step[:60]) or repr(step)}" for step in path)
    return text.lstrip(".") or "spec"


def shown(value: Any) -> str:
    """A value as a message shows it: as YAML would have it, within a line."""
    if isinstance(value, Unusable):
        return value.found
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and abs(value) >= 10**15:
        return f"{value:.4g}" if abs(value) < 10**300 else "a number above 1e300"
    if isinstance(value, (dict, msgspec.Struct)):
        return "a mapping" if value else "{}"
    if isinstance(value, list) and len(value) > 8:
        return f"a list of {len(value)}"
    text = f"[{', '.join(map(shown, value))}]" if isinstance(value, list) else repr(value)
    return cut(text)


def given(value: Any, always: Callable[[msgspec.Struct], tuple[str, ...]] = lambda struct: ()) -> Any:
    """Structs as dicts without what has its default, but for the fields that `always` names."""
    if not isinstance(value, msgspec.Struct):
        return [given(v, always) for v in value] if isinstance(value, list) else value
    fields, said = ((f.name, f.default, getattr(value, f.name)) for f in msgspec.structs.fields(value)), always(value)
    return {name: given(v, always) for name, default, v in fields if default is msgspec.NODEFAULT or v != default or name in said}


def to_spec(data: Any) -> tuple[Spec | None, list[Problem]]:
    """(the Spec without what is unknown or unusable, every problem found); None for a Spec that lacks something that rules ask for."""
    try:
        return msgspec.convert(data, Spec), []
    except msgspec.ValidationError:
        mended, problems = structure(data)
        if mended is LOST and isinstance(data, dict) and problems:
            # No other key's rule asks for these.
            lost = {problem.path[0] for problem in problems} & UNASKED.keys()
            mended = _check(data | {key: UNASKED[key] for key in lost}, _types(), (), [])
        return (None if mended is LOST else msgspec.convert(mended, Spec)), problems


def structure(data: Any) -> tuple[Any, list[Problem]]:
    """Data walked beside the schema: (what is usable of it, or LOST, with whole floats as ints where only ints are taken; every problem)."""
    problems: list[Problem] = []
    return _check(data, _types(), (), problems), problems


@lru_cache(maxsize=1)
def _types() -> Any:
    import msgspec.inspect

    return msgspec.inspect.type_info(Spec)


def _name(kind: Any) -> str:
    return type(kind).__name__.removesuffix("Type")


def _options(kind: Any) -> list[Any]:
    """The members of a union, or the type alone."""
    if _name(kind) == "Metadata":
        return _options(kind.type)
    return [m for t in kind.types for m in _options(t)] if _name(kind) == "Union" else [kind]


def _check(value: Any, kind: Any, path: Path, problems: list[Problem]) -> Any:
    options = {_name(option): option for option in _options(kind)}
    if isinstance(value, dict) and "Struct" in options:
        return _struct(value, options["Struct"], path, problems)
    if isinstance(value, list) and "List" in options:
        items = [_check(item, options["List"].item_type, (*path, i), problems) for i, item in enumerate(value)]
        return LOST if any(item is LOST for item in items) else items
    if isinstance(value, float) and value.is_integer() and "Int" in options and "Float" not in options:
        value = int(value)
    if not any(_takes(option, value, "Int" in options) for option in options.values()):
        problems.append(Problem(path, f"found {shown(value)}", allowed(kind), "" if len(problems) > TOLD else hint(value, options)))
        return LOST
    return value


def _takes(kind: Any, value: Any, int_apart: bool) -> bool:
    match _name(kind):
        case "None":
            return value is None
        case "Bool":
            return isinstance(value, bool)
        case "Str":
            return isinstance(value, str)
        case "Literal":
            return isinstance(value, str) and value in kind.values
        case "Int":
            return isinstance(value, int) and not isinstance(value, bool) and _within(kind, value)
        case "Float":
            number = isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and not int_apart and abs(value) < 10**300)
            return number and isfinite(value) and _within(kind, value)
    return False


def _within(kind: Any, value: float) -> bool:
    return (
        (kind.ge is None or value >= kind.ge)
        and (kind.gt is None or value > kind.gt)
        and (kind.le is None or value <= kind.le)
        and (kind.lt is None or value < kind.lt)
    )


def _struct(data: dict, kind: Any, path: Path, problems: list[Problem]) -> Any:
    fields = {field.encode_name: field for field in kind.fields}
    mended = {}
    for key, value in data.items():
        if key in fields:
            mended[key] = _check(value, fields[key].type, (*path, key), problems)
        else:
            near = "" if len(problems) > TOLD else key_hint(key, list(fields), _homes())
            problems.append(Problem((*path, key), "unknown key", ", ".join(fields), near))
    for key, field in fields.items():
        if field.required and key not in data:
            problems.append(Problem((*path, key), "missing", allowed(field.type), _meaning(field.type)))
    usable = {key: value for key, value in mended.items() if value is not LOST}
    return usable if all(key in usable for key, field in fields.items() if field.required) else LOST


def _meaning(kind: Any) -> str:
    return (kind.extra_json_schema or {}).get("description", "") if _name(kind) == "Metadata" else ""


@lru_cache(maxsize=1)
def _homes() -> dict[str, list[str]]:
    """Key -> the dotted paths where the schema has it."""
    homes: dict[str, list[str]] = {}

    def walk(kind: Any, prefix: str) -> None:
        for option in _options(kind):
            for field in option.fields if _name(option) == "Struct" else ():
                homes.setdefault(field.encode_name, []).append(f"{prefix}{field.encode_name}")
                walk(field.type, f"{prefix}{field.encode_name}.")

    walk(_types(), "")
    return homes


def allowed(kind: Any) -> str:
    """What a type takes, in words."""
    words: list[str] = []
    for option in _options(kind):
        if _name(option) == "List" and {_words(item) for item in _options(option.item_type)} <= {*words, "null"}:
            words.append("a list of those")
        else:
            words.append(_words(option))
    if "null" in words and words[0].startswith("a list, each"):
        words.reverse()  # else null would seem to be for its entries
    return " or ".join(([", ".join(words[:-1])] if words[:-1] else []) + words[-1:])


def _words(kind: Any) -> str:
    match _name(kind):
        case "None":
            return "null"
        case "Bool":
            return "true or false"
        case "Str":
            return "text"
        case "Literal":
            return " | ".join(kind.values)
        case "Int":
            return f"an integer{_range(kind)}"
        case "Float":
            return f"a number{_range(kind)}"
        case "List":
            return f"a list, each {allowed(kind.item_type)}"
    return f"a mapping with {', '.join(field.encode_name for field in kind.fields)}"


def _range(kind: Any) -> str:
    if isinstance(kind.ge, int) and isinstance(kind.le, int):
        return f" from {kind.ge:,} to {kind.le:,}"
    bounds = [
        f"{word} {limit:,}" if isinstance(limit, int) else f"{word} {limit:g}"
        for word, limit in (("of at least", kind.ge), ("above", kind.gt), ("at most", kind.le), ("below", kind.lt))
        if limit is not None
    ]
    return f" {' and '.join(bounds)}" if bounds else ""


# The number that a section is about.
MAIN = {"Mod": "capacity", "Attention": "n_heads", "Mlp": "d_ff", "Moe": "n_experts"}
# Sections that must say something, whatever that is.
SOME = {"Limits", "FullAttention"}


def _section(value: Any, kind: Any) -> str:
    """The section of which somebody wrote only what matters: {kind: alibi} for alibi, {capacity: 0.125} for 0.125."""
    for field in kind.fields:
        options = {_name(option): option for option in _options(field.type)}
        if value == field.encode_name and "Bool" in options:
            return f"{{{value}: true}}"
        words = "Literal" in options and _takes(options["Literal"], value, False)
        main = field.encode_name == MAIN.get(kind.cls.__name__) and not isinstance(value, (bool, str))
        if words or (main and any(_takes(option, value, "Int" in options) for option in options.values())):
            return f"{{{field.encode_name}: {value}}}"
    return ""


def _least(kind: Any) -> str:
    """How to write a section that has no more than it must."""
    main = MAIN.get(kind.cls.__name__)
    needed = [field.encode_name for field in kind.fields if field.required or (field.encode_name == main and field.default is None)]
    if kind.cls.__name__ in SOME:
        return f"give it {' or '.join(field.encode_name for field in kind.fields[:3])}"
    return f"give it {', '.join(needed)}" if needed else "write {} for its defaults"


def hint(value: Any, options: dict[str, Any]) -> str:
    """What the user may have meant."""
    number = "Int" in options or "Float" in options
    if isinstance(value, Unusable):
        none = ["write null for none"] if "None" in options else []
        section = [_least(options["Struct"])] if "Struct" in options else []
        return ", or ".join(none + section) if value.found == "nothing" else ""
    if isinstance(value, float) and "Int" in options and "Float" in options and value.is_integer():
        return f"a count is written without a point: {int(value)}"
    if value is True and "Struct" in options and "None" in options:
        return _least(options["Struct"])
    if "Struct" in options and not isinstance(value, list) and (section := _section(value, options["Struct"])):
        return f"did you mean {section}?"
    if "List" in options and not isinstance(value, str) and any(_takes(item, value, False) for item in _options(options["List"].item_type)):
        return f"write [{shown(value)}]"
    if "Str" in options and value is not None and not isinstance(value, (str, list, dict)):
        return "write it in quotes"
    if not isinstance(value, str):
        return ""
    if "Struct" in options and re.match(r"[a-z_]+:", value):
        return "put a blank behind the ':'"
    if "Literal" in options:
        near = nearest(value, options["Literal"].values)
        return f"did you mean {near}?" if near else ""
    if "Bool" in options and value.lower() in ("yes", "no", "on", "off", "true", "false"):
        return f"write {'true' if value.lower() in ('yes', 'on', 'true') else 'false'}"
    if number and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?\s*%", value):
        return f"write a share as a number: {float(value.rstrip('% ')) / 100:g}"
    if number and re.fullmatch(r"[-+]?[0-9]+,[0-9]+([eE][-+]?[0-9]{1,2})?", value) and not re.fullmatch(r"[-+]?[1-9][0-9]{0,2},[0-9]{3}", value):
        decimal = value.replace(",", ".")
        return f"a decimal has a point: write {decimal}" if "Float" in options or float(decimal).is_integer() else "write a whole number"
    if number and re.fullmatch(r"[-+]?[0-9][0-9_,]*(\.[0-9]+)?([eE][-+]?[0-9]+)?", value):
        plain = value.replace("_", "").replace(",", "")
        return f"write {plain}, without quotes" if plain == value else f"write {plain}"
    return "write the number out, without a suffix" if number and re.fullmatch(r"[0-9.]+\s*[A-Za-z]+", value) else ""

"""A config.json, read: its fields, what messages call it, and the line that holds a field."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modcalc.errors import SpecError
from modcalc.spec.hub_fields import show
from modcalc.spec.text import read_text
from modcalc.spec.yaml_nodes import printable

# id2label of a large classifier fits; weights given by mistake do not.
MAX_BYTES = 16 * 1024 * 1024
TIED = "tie_word_embeddings"
WHOLE_TIED = dict.fromkeys(
    ("cohere_compass", "qwen2_5_omni_thinker", "qwen3_vl_moe"), False
)  # where the library's default of a whole is not its text's
TEXT_SECTION, OF_TEXT = "text_config", "_text"
TOWERS = ("vision_config", "audio_config")


@dataclass(frozen=True)
class Source:
    """The fields of a config, the name of the model, and where they come from. around: what is beside them, if they are one section, of the
    dotted name `section`.
    """

    fields: Mapping[str, Any]
    name: str
    label: str
    text: str = ""
    around: Mapping[str, Any] = field(default_factory=dict)
    section: str = ""

    def part(self, name: str) -> str:
        """How a section of these fields is given."""
        return f"{self.label}#{self.section and f'{self.section}.'}{name}"

    def problem(self, key: str, text: str) -> str:
        """`file:line: key: text`; the line where the file holds the key exactly once."""
        places = [m.start() for m in re.finditer(rf'"{re.escape(key)}"\s*:', self.text)]
        line = f":{self.text.count(chr(10), 0, places[0]) + 1}" if len(places) == 1 else ""
        return f"{self.label}{line}: {printable(key[:60])}: {text}"


class _Duplicate(ValueError):
    pass


def of_model(path: Path) -> bool:
    """Whether a file of this name is a model's, not some other program's, as far as can be told without reading it as JSON."""
    try:
        with path.open("rb") as file:
            return b'"model_type"' in file.read(MAX_BYTES)
    except OSError:
        return True  # to load it says why


def read_config(source: str | Path | Mapping[str, Any], section: str | None = None) -> Source:
    """The config, or that in its field `section`, dots between a section and one within it. Raises SpecError where `source` is no file, no
    JSON (with the line), no object, or without that section.
    """
    config = _read(source)
    for name in () if section is None else section.split("."):
        config = _part(config, name)
    return config


def _part(whole: Source, section: str) -> Source:
    """A section of a config, which the model ties as a whole where the section does not say."""
    inner, path = whole.fields.get(section), f"{whole.section}.{section}".lstrip(".")
    if inner is None and section == TEXT_SECTION and any(tower in whole.fields for tower in TOWERS) and "hidden_size" in whole.fields:
        # Before it had sections: what the library's own reading makes of such a file.
        inner = {key: value for key, value in whole.fields.items() if key not in TOWERS}
        inner["model_type"] = f"{inner.get('model_type')}{OF_TEXT}"
        return Source(inner, whole.name, whole.label, whole.text, whole.fields, path)
    if not isinstance(inner, Mapping):
        there = ", ".join(f"{whole.section}.{key}".lstrip(".") for key, value in whole.fields.items() if isinstance(value, Mapping))
        none = f"none, for {whole.section or 'this file'} has no sections"
        raise SpecError([whole.problem(path, f"found no such section; allowed: {there or none}")])
    tied = {TIED: whole.fields[TIED]} if TIED in whole.fields else {}
    usual = {TIED: WHOLE_TIED[kind]} if (kind := whole.fields.get("model_type")) in WHOLE_TIED else {}
    part = Source({**usual, **tied, **inner}, whole.name, whole.label, _only(whole.text, section, inner), whole.fields, path)
    if tied and part.fields[TIED] != tied[TIED]:
        said = (
            f"{show(inner[TIED])}, but {show(tied[TIED])} beside {section}: which of them counts depends on the library's version; give both the same"
        )
        raise SpecError([part.problem(TIED, said)])
    return part


def _only(text: str, section: str, inner: Mapping[str, Any]) -> str:
    """The section's text, on the lines on which the file has it."""
    for key in re.finditer(rf'"{re.escape(section)}"\s*:\s*', text):
        value, end = json.JSONDecoder().raw_decode(text, key.end())
        if value == inner:
            return "\n" * text.count("\n", 0, key.end()) + text[key.end() : end]
    return ""


def _read(source: str | Path | Mapping[str, Any]) -> Source:
    if isinstance(source, Mapping):
        if not all(isinstance(key, str) for key in source):
            raise SpecError(["config: every key of a config is a string"])
        return Source(source, _name(source, ""), "config")
    path = Path(source)
    if os.path.isdir(path):  # Path.is_dir raises where a folder above may not be entered
        path = path / "config.json"
    label = str(path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise SpecError([f"{label}: not a file"])
    text = read_text(path, label, MAX_BYTES, "a config.json", "; a config.json, or a folder that holds one, is needed")
    try:
        fields = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as bad:
        cut = "; the file ends too early, it may have been cut off" if bad.pos >= len(text.rstrip()) or bad.msg.startswith("Unterminated") else ""
        raise SpecError([f"{label}:{bad.lineno}: not JSON: {bad.msg} (column {bad.colno}){cut}"]) from None
    except _Duplicate as bad:
        raise SpecError([Source({}, "", label, "").problem(str(bad), "given twice; keep one")]) from None
    except RecursionError:
        raise SpecError([f"{label}: nested too deeply for a config"]) from None
    except ValueError as bad:  # an integer of thousands of digits
        reason = "a number of thousands of digits" if "digits" in str(bad) else str(bad)
        raise SpecError([f"{label}: not usable: {reason}"]) from None
    if not isinstance(fields, dict):
        raise SpecError([f"{label}:1: found {show(fields)}; a config.json holds one object, {{…}}"])
    stem = _folder_name(path.parent.resolve()) if path.name == "config.json" else path.name.removesuffix(".json")
    return Source(fields, _name(fields, stem), label, text)


def _folder_name(folder: Path) -> str:
    """A model's folder names it; one in the hub's cache is models--OWNER--NAME/snapshots/REVISION."""
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.rpartition("--")[2]
    return folder.name


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, value in pairs:
        if key in fields:
            raise _Duplicate(key)
        fields[key] = value
    return fields


def _name(fields: Mapping[str, Any], stem: str) -> str:
    """The file's or folder's name; for content without one, the last part of _name_or_path, then the model_type."""
    origin = fields.get("_name_or_path")
    tail = origin.rstrip("/").rpartition("/")[2] if isinstance(origin, str) else ""
    for name in (stem, tail, str(fields.get("model_type") or "")):
        if name and name.isprintable() and name == name.strip() and len(name) <= 200:
            return name
    return "imported"

"""Files, names and text -> Spec, and back. Every problem of a file is reported at once, as `file:line: key: found …; allowed …`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from modcalc.errors import SpecError
from modcalc.spec.convert import TOLD, given
from modcalc.spec.near import nearest
from modcalc.spec.schema import Mod, Spec
from modcalc.spec.text import read_text
from modcalc.spec.validate import checked
from modcalc.spec.yaml_nodes import Lines, read_yaml, scalar

# Hundreds of times any shipped spec.
MAX_BYTES = 256 * 1024


def load(source: str | Path) -> Spec:
    """The Spec at `source`: a YAML file, the name of a shipped spec ("mod-220m"), or a config.json of the transformers
    library (or a folder that holds one), of which `config.json#text_config` is one section, and `#thinker_config.text_config`
    one within another. A file that exists goes before a shipped name.

    Raises SpecError with every problem found, each with file and line.
    """
    return load_with_lines(source)[0]


def load_with_lines(source: str | Path) -> tuple[Spec, Lines]:
    """As `load`, and the line of every key: `lines["budget", "params"]`. A config.json has no lines: all are 1."""
    if not isinstance(source, str | os.PathLike):
        raise SpecError([f"{source!r:.100}: allowed the path of a file, or the name of a shipped spec"])
    file, section = sectioned(source)
    path = locate(file)
    if path.suffix == ".json":
        from modcalc.spec.hub import from_config

        return from_config(path, section), Lines()
    demand_no_section(str(source), section)
    return _parse(read_text(path, str(source), MAX_BYTES, "a spec"), _label(path, source))


def told_apart(specs: Sequence[Spec], sources: Sequence[str | Path]) -> list[Spec]:
    """The specs; where several that differ share a name, each is called `name (source)`, as results show nothing else of them."""
    found = []
    for spec, source in zip(specs, sources, strict=True):
        namesake = any(other.name == spec.name and other != spec for other in specs)
        found.append(msgspec.structs.replace(spec, name=f"{spec.name} ({source})") if namesake else spec)
    return found


def loads(text: str, file: str = "<string>") -> Spec:
    """The Spec that YAML `text` says. file: what messages call it. Raises SpecError."""
    return _parse(text, file)[0]


def sectioned(source: str | Path) -> tuple[str | Path, str | None]:
    """The two parts of FILE#SECTION; None: no section is meant, as where there is a file of the whole name."""
    file, _, section = str(source).rpartition("#")
    return (file, section) if file and section and "/" not in section and not os.path.exists(source) else (source, None)


def demand_no_section(source: str, section: str | None) -> None:
    """Raises SpecError for a section of a YAML spec, which has none."""
    if section is not None:
        raise SpecError([f"{source}: found #{section} behind a YAML spec; allowed behind a config.json, of which it is one section"])


def locate(source: str | Path) -> Path:
    """The file that `source` means, not yet read: see `load`. Raises SpecError where there is none."""
    path, name = Path(source), str(source)
    if not name.isprintable() or not 0 < len(name) < 1000:
        raise SpecError([f"{name[:100]!r}: allowed are names of 1 to 999 characters that can be shown"])
    try:
        if path.exists() and not path.is_dir():
            return path
        config = path / "config.json"
        if path.is_dir() and config.is_file():
            return config
        shipped = shipped_specs()
        if name.removesuffix(".yaml") in shipped:
            return shipped[name.removesuffix(".yaml")]
        if path.is_dir():
            raise SpecError([f"{name}: found a folder without config.json; allowed a YAML spec, a config.json or a folder that holds one"])
    except OSError as wrong:
        raise SpecError([f"{name}: not readable: {wrong.strerror}"]) from None
    raise SpecError([f"{name}: no such file, and no shipped spec of that name{_nearest(name, list(shipped))}{_hub(path)}"])


def shipped_specs() -> dict[str, Path]:
    """Name -> file of the specs that come with modcalc, by name."""
    # A wheel and an editable install both keep them as plain files; importlib.resources would cost more than all the rest of loading.
    from modcalc import specs

    return {file.stem: file for file in sorted(Path(specs.__file__).parent.glob("*.yaml"))}


def dump(spec: Spec) -> str:
    """YAML that loads back to an equal Spec; what has its default is left out, but for what a `mod` section is about."""

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.Dumper, value: str) -> yaml.Node:
        # Quotes where YAML 1.2 would read something else than text, as pyyaml itself knows 1.1 only, and around odd characters.
        odd = scalar(value) != value or not value.replace("\n", "").isprintable()
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style='"' if odd else "|" if "\n" in value else None)

    def one_line(dumper: yaml.Dumper, value: list) -> yaml.Node:
        return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)

    Dumper.add_representer(str, text)
    Dumper.add_representer(list, one_line)
    return yaml.dump(given(spec, _always_said), Dumper=Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=120)


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a spec file. Unknown keys are errors in it, too."""
    schema = msgspec.json.schema(Spec)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "modcalc spec", **schema}


def _always_said(value: msgspec.Struct) -> tuple[str, ...]:
    """How many tokens are kept, and by which blocks."""
    if not isinstance(value, Mod):
        return ()
    return ("capacity",) if value.layers is not None or value.recursions is not None else ("capacity", "every")


def _parse(text: str, file: str) -> tuple[Spec, Lines]:
    root, problems = read_yaml(text, file)
    lines = Lines(root)
    spec, wrong = checked(root.plain(), lines)
    problems += [(lines[problem.path], str(problem)) for problem in wrong]
    if spec is None or problems:
        raise SpecError(_told(problems, file))
    return spec, lines


def _told(problems: list[tuple[int, str]], file: str) -> list[str]:
    """From the top of the file to its bottom, and no more than anyone would read."""
    problems = sorted(problems, key=lambda problem: problem[0])
    texts = [f"{file}:{line}: {text}" for line, text in problems[:TOLD]]
    if len(problems) > TOLD:
        texts.append(f"{file}:{problems[TOLD][0]}: {len(problems) - TOLD:,} more problems from here on")
    return texts


def _label(path: Path, source: str | Path) -> str:
    """What messages call the file: as the user named it, or a shipped spec's file name."""
    return str(source) if path == Path(source) else path.name


def _hub(path: Path) -> str:
    """What a name that may be one of a model elsewhere needs."""
    return "" if path.suffix in (".yaml", ".yml", ".json") else "; a model of the transformers library is read from its config.json, downloaded"


def _nearest(name: str, names: list[str]) -> str:
    near = nearest(Path(name).name.removesuffix(".yaml").removesuffix(".yml"), names)
    return f"; did you mean {near}?" if near else f"; shipped: {', '.join(names)} (modcalc specs)"

"""Which specs a path means: a file, a name, or all that a folder holds."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from modcalc.errors import UsageError, demand_name
from modcalc.spec.hub_read import of_model
from modcalc.spec.load import shipped_specs


def sources(paths: Iterable[str]) -> Iterator[str]:
    """Files, names, and for a folder every YAML file and every config.json of a model in it, sorted, its own in front; and folders that
    cannot be looked into, for which to load them says why.

    Raises UsageError for a folder without any spec: a check of nothing must not pass.
    """
    for path in paths:
        demand_name("SPEC", path)
        folder = Path(path)
        if not os.path.isdir(folder):
            yield path
            continue
        found = _within(folder)
        if os.path.exists(folder / "config.json"):
            # Alone, it is the folder that was meant: a model's, as the hub has them.
            yield str(folder / "config.json") if found else path
        elif not found and path in shipped_specs():
            yield path
        elif not found:
            raise UsageError(f"{path}: no .yaml file and no config.json in this folder")
        yield from map(str, found)


def _within(folder: Path) -> list[Path]:
    """Specs in a folder, hidden ones and its own config.json left out, and folders in it that cannot be listed."""
    found: list[Path] = []
    shut: list[OSError] = []
    for where, below, names in os.walk(folder, onerror=shut.append):
        below[:] = [name for name in below if name[0] != "."]
        found += [Path(where) / name for name in names if name[0] != "." and name.endswith((".yaml", ".yml"))]
        if "config.json" in names and Path(where) != folder and of_model(Path(where) / "config.json"):
            found.append(Path(where) / "config.json")
    return sorted([*found, *(Path(wrong.filename) for wrong in shut)])

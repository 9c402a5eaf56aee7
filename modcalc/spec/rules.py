"""What the cross-field rules of `validate` and `validate_routing` share."""

from collections.abc import Container
from typing import Any

from msgspec import structs

from modcalc.spec.convert import Problem, shown
from modcalc.spec.schema import Spec
from modcalc.spec.yaml_nodes import Path


class Rules:
    """A Spec under check. Paths are given as dotted text: "mod.capacity".

    lines: the keys that a file says, where the Spec was read from one. A key counts as given if it is written there with
    something else than null or false; for a Spec made in Python, if it is not the default. whole: false where parts of
    the file could not be used; then nobody knows what has no effect.
    """

    def __init__(self, spec: Spec, lines: Container[Path] | None = None, whole: bool = True) -> None:
        self.spec = spec
        self.whole = whole
        self.problems: list[Problem] = []
        self._lines = lines

    def value(self, path: str) -> Any:
        """The value at a path; None where a section on the way is absent."""
        value: Any = self.spec
        for step in path.split("."):
            value = getattr(value, step, None)
        return value

    def given(self, path: str) -> bool:
        """Whether a key within a section is given."""
        value = self.value(path)
        if value is None or value is False:
            return False
        if self._lines is not None:
            return tuple(path.split(".")) in self._lines
        section, _, name = path.rpartition(".")
        return value != next(field.default for field in structs.fields(self.value(section)) if field.name == name)

    def wrong(self, path: str | Path, allowed: str, hint: str = "", found: str | None = None) -> None:
        """Record a problem; what was found is the value at the path unless said otherwise."""
        if isinstance(path, str):
            found = found or f"found {shown(self.value(path))}"
            path = tuple(path.split("."))
        self.problems.append(Problem(path, found or "", allowed, hint))

    def idle(self, when: str, *paths: str, hint: str = "") -> None:
        """Nothing is accepted and ignored: each of `paths` that is given is a problem, for it does nothing `when`."""
        for path in paths:
            if self.whole and self.given(path):
                self.wrong(path, f"only where it has an effect, not {when}", hint or f"remove {path.rpartition('.')[2]}")

    def need(self, holds: bool, path: str, allowed: str, hint: str = "") -> None:
        """Record a problem unless it `holds`."""
        if not holds:
            self.wrong(path, allowed, hint)

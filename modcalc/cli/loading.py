"""The specs that a command was given, and what is to be said of them on stderr."""

import sys
from collections.abc import Sequence

from modcalc.spec.imported import notes
from modcalc.spec.load import load, told_apart
from modcalc.spec.mod_option import apply_mod
from modcalc.spec.schema import Spec


def noted(spec: Spec) -> Spec:
    """The spec, once stderr has said what an import left out of it."""
    for note in notes(spec):
        print(f"note: {note}", file=sys.stderr)
    return spec


def load_as(source: str, mod: str | None = None) -> Spec:
    """The spec that a command was given, as the Mixture-of-Depths model that its --mod says, if it has one.

    Says on stderr what is in no bill (what an import did not carry, routing that --mod replaces) and sizes that no file gave.
    """
    spec = noted(load(source))
    if mod is not None and spec.mod is not None:
        print(f"note: {spec.name}: --mod replaces its own mod section", file=sys.stderr)
    return spec if mod is None else apply_mod(spec, mod)


def load_all(sources: Sequence[str], mod: str | None) -> list[Spec]:
    """Every spec that a command was given, see `load_as`, and `told_apart`."""
    return told_apart([load_as(source, mod) for source in sources], sources)

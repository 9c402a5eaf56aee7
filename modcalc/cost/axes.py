"""Settings of a workload that are swept: `batch=1,2,4` and every combination of such."""

import re
from collections.abc import Sequence
from itertools import product

from msgspec import Struct

from modcalc.errors import UsageError
from modcalc.spec.near import hint
from modcalc.spec.schema import MAX_SIZE

LEAST = {"batch": 1, "seq_len": 1, "context": 0}


class Axis(Struct, frozen=True):
    """One setting and the values that it takes in turn."""

    name: str
    values: tuple[int, ...]


def axis(text: str) -> Axis:
    """`batch=1,2,4` as an Axis. Raises UsageError for another setting, no values, or values that are no numbers in range."""
    written, equals, rest = (part.strip() for part in text.partition("="))
    name = written.replace("-", "_")
    if name not in LEAST:
        names = [known.replace("_", "-") for known in LEAST]
        raise UsageError(f"sweep {text!r}: NAME=VALUE,VALUE,… with NAME one of {', '.join(names)}{hint(written, names)}")
    if not equals:
        raise UsageError(f"sweep {text!r}: without values; write {written}=1,2,4")
    values = []
    for word in rest.split(","):
        if not re.fullmatch(r"\s*[+-]?[0-9]{1,100}\s*", word):
            raise UsageError(f"sweep {text!r}: {word.strip()!r} is no whole number; write {written}=1,2,4")
        value = int(word)
        if value < LEAST[name]:
            raise UsageError(f"sweep {text!r}: {written} {value}: at least {LEAST[name]}")
        if value > MAX_SIZE:
            raise UsageError(f"sweep {text!r}: {written} {value}: at most {MAX_SIZE:,}")
        values.append(value)
    if len(set(values)) < len(values):
        raise UsageError(f"sweep {text!r}: a value stands there twice")
    return Axis(name, tuple(values))


def combinations(axes: Sequence[Axis], phase: str) -> list[dict[str, int]]:
    """Every combination of the axes' values, the last axis fastest. Raises UsageError for a setting swept twice, or that a phase has not."""
    names = [a.name for a in axes]
    if len(set(names)) < len(names):
        raise UsageError(f"sweep: {', '.join(n for n in names if names.count(n) > 1)}: swept twice; give all its values in one --sweep")
    if phase == "decode" and "seq_len" in names:
        raise UsageError("sweep seq-len: decode computes 1 token per sequence; sweep context instead")
    return [dict(zip(names, values, strict=True)) for values in product(*(a.values for a in axes))]

"""Damaged specs: whatever happens to a file, the outcome is a Spec that works or a message with file and line."""

import json
import random
import re
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import specs

from modcalc.errors import SpecError
from modcalc.spec.load import dump, load, loads, shipped_specs
from modcalc.spec.resolve import resolve

HANG_S = 20  # of CPU time: work that grows with the square of a file takes minutes; speed is measured in benchmarks/
LINE = re.compile(r"[^\n]*?fuzz\.yaml:\d+: [^\n]+")
NASTY = (
    "null|~||0|-1|1|0.0|1.5|1e400|.nan|-.inf|1e-5|9999999999999999999999|true|yes|[]|{}|[1, 2]|{a: 1}|'x'|12.5%|&a|*a|"
    "!!python/none|\t|\u2028|0x10|- 1|'|\ufeff"
)
NASTY_BYTES = (
    b"\x00",
    b"\xff",
    b"\t",
    b"\n",
    b":",
    b"- ",
    b"[",
    b"}",
    b"'",
    b"%",
    b"&a ",
    b"*a",
    b"!!x ",
    b"#",
    b"\r",
    b"\xc2\x85",
    b"---\n",
    b"? ",
    b"|\n",
    b"\x1b",
)


def mutate(rng: random.Random, lines: list[bytes], pool: list[bytes]) -> bytes:
    """A handful of the accidents that happen to files."""
    lines = list(lines)
    for _ in range(rng.randint(1, 4)):
        i = rng.randrange(len(lines))
        match rng.randrange(8):
            case 0:
                del lines[i]
            case 1:
                lines.insert(i, rng.choice(lines))
            case 2:
                lines[i] = lines[i].partition(b":")[0] + b": " + rng.choice(NASTY.split("|")).encode() + b"\n"
            case 3:
                lines[i] = rng.choice((b"  ", b" ", b"\t", b"- ")) + lines[i]
            case 4:
                lines[i] = lines[i].lstrip()
            case 5:
                lines.insert(i, rng.choice(pool))
            case 6:
                at = rng.randrange(len(lines[i]) + 1)
                lines[i] = lines[i][:at] + rng.choice(NASTY_BYTES) + lines[i][at + rng.randrange(2) :]
            case 7:
                lines[i] = lines[i].replace(rng.choice(b"aeno0123456789").to_bytes(1, "big"), rng.choice((b"", b"x", b"0", b"7")))
        lines = lines or [b""]
    text = b"".join(lines)
    return text[: rng.randrange(len(text) + 1)] if rng.random() < 0.1 else text


@pytest.mark.parametrize("name", sorted(shipped_specs()))
def test_mutated_shipped_specs(name: str, tmp_path: Path) -> None:
    """Never another exception, and never longer than a second."""
    pool = [line for file in shipped_specs().values() for line in file.read_bytes().splitlines(keepends=True)]
    lines = shipped_specs()[name].read_bytes().splitlines(keepends=True)
    file, rng, outcomes = tmp_path / "fuzz.yaml", random.Random(name), {True: 0, False: 0}
    for _ in range(150):
        text = mutate(rng, lines, pool)
        file.write_bytes(text)
        start = time.process_time()
        try:
            spec = load(file)
            assert loads(dump(spec)) == spec, text
            works = resolvable(spec)
        except SpecError as wrong:
            works = False
            assert wrong.problems and all(LINE.fullmatch(p) for p in wrong.problems), (text, wrong.problems)
        assert time.process_time() - start < HANG_S, text
        outcomes[works] += 1
    assert outcomes[True] >= 5 and outcomes[False] >= 50, f"the fuzz has lost its bite: {outcomes}"


def resolvable(spec: Any) -> bool:
    """Not a huge one only: a plan lists every layer."""
    if spec.n_layers <= 1000:
        assert resolve(spec).n_layers == spec.n_layers
    return True


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["kind", "capacity", "max", "d_ff", "x", "layers"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=500, suppress_health_check=list(HealthCheck))
@given(specs(), JSON, st.data())
def test_any_value_in_any_place(spec: Any, value: Any, data: st.DataObject) -> None:
    tree = msgspec.to_builtins(spec)
    holder: Any = tree
    while True:
        key = data.draw(st.sampled_from(sorted(holder)))
        if not (isinstance(holder[key], dict) and holder[key] and data.draw(st.booleans())):
            break
        holder = holder[key]
    holder[key] = value
    # Sections written out in full hold keys that mean nothing there; as a file they would be refused for that alone.
    tree = {k: {f: v for f, v in s.items() if v is not None} if isinstance(s, dict) else s for k, s in tree.items() if s is not None}
    try:
        loads(json.dumps(tree), "fuzz.yaml")
    except SpecError as wrong:
        assert wrong.problems and all(LINE.fullmatch(p) for p in wrong.problems), wrong.problems


@settings(max_examples=300)
@given(st.text(max_size=60) | st.text("&*!|>'\"%@`{}[],:?#-~ \n\tab01", max_size=80))
def test_any_text(text: str) -> None:
    try:
        loads(text, "fuzz.yaml")
    except SpecError as wrong:
        assert all(LINE.fullmatch(p) for p in wrong.problems), wrong.problems
    else:
        raise AssertionError(f"a spec: {text!r}")

"""What is no spec: one clear message, exit 2, no traceback, no code run, within a second."""

import re
import time
from pathlib import Path

import pytest

from modcalc.cli import app
from modcalc.errors import SpecError
from modcalc.spec.load import MAX_BYTES, load, loads

HANG_S = 20  # of CPU time: work that grows with the square of a file takes minutes; speed is measured in benchmarks/
GOOD = """\
name: a
vocab_size: 100
seq_len: 16
d_model: 32
n_layers: 4
attention:
  n_heads: 4
mlp:
  d_ff: 64
"""
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
)
MAPPINGS = f"a: &a {{{', '.join(f'k{i}: x' for i in range(10))}}}\n" + "".join(
    f"{b}: &{b} {{{', '.join(f'k{i}: *{a}' for i in range(10))}}}\n" for a, b in zip("abcd", "bcde", strict=True)
)
MANY = """\
name: 3
vocab: 3
seq_len: -1
attention: 3
mlp: {d_ff: 1.5, kind: gate}
n_layers: '4'
d_model: 32_000
head: {tied: yes}
"""

# What the file holds -> what is said, in this order, a line each.
FILES: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "unknown key": (GOOD + "n_head: 3\n", (r":10: n_head: unknown key; allowed name, vocab_size, .*; did you mean attention.n_heads\?",)),
    "a section's one word": (GOOD + "positions: alibi\n", (r":10: positions: found 'alibi'; .*; did you mean \{kind: alibi\}\?",)),
    "a section's one number": (GOOD + "mod: 0.125\n", (r":10: mod: found 0.125; .*; did you mean \{capacity: 0.125\}\?",)),
    "a section's flag": (GOOD + "head: tied\n", (r":10: head: found 'tied'; .*; did you mean \{tied: true\}\?",)),
    "a section as a flag": (GOOD + "mod: true\n", (r":10: mod: found true; .*; write \{\} for its defaults",)),
    "a section that needs more as a flag": (GOOD + "moe: true\n", (r":10: moe: found true; .*; give it n_experts$",)),
    "a key that is no flag": (GOOD + "mod: capacity\n", (r":10: mod: found 'capacity'; allowed a mapping with [^;]*$",)),
    "a list's one entry": (GOOD + "mod: {layers: 1}\n", (r":10: mod.layers: found 1; allowed null or a list, .*; write \[1\]",)),
    "a number as a text": (GOOD.replace("name: a\n", "name: 123\n"), (r":1: name: found 123; allowed text; write it in quotes",)),
    "another case": (GOOD + "MoD: {}\n", (r":10: MoD: unknown key; .*; did you mean mod\?",)),
    "unknown key below": (GOOD + "mod: {capcity: 1}\n", (r":10: mod.capcity: unknown key; allowed capacity, every, .*; did you mean capacity\?",)),
    "another tool's key": (GOOD + "hidden_size: 3\n", (r":10: hidden_size: unknown key; .*; write d_model",)),
    "merge key": (GOOD + "mod:\n  <<: {capacity: 0.5}\n", (r":11: mod.<<: unknown key; .*merge keys are not read",)),
    "missing keys": ("name: a\nattention: {}\n", tuple(f":{n}: {key}: missing; allowed " for n, key in (
        (1, "vocab_size"), (1, "seq_len"), (1, "d_model"), (1, "n_layers"), (1, "mlp"), (2, "attention.n_heads")))),
    "wrong types": (MANY, (
        r":1: name: found 3; allowed text",
        r":1: vocab_size: missing; allowed an integer from 1 to 1,000,000,000",
        r":2: vocab: unknown key; .*; did you mean vocab_size\?",
        r":3: seq_len: found -1; allowed an integer from 1 to",
        r":4: attention: found 3; allowed a mapping with n_heads, ",
        r":5: mlp.d_ff: found 1.5; allowed an integer from 1 to 1,000,000,000 or null",
        r":5: mlp.kind: found 'gate'; allowed gated \| plain; did you mean gated\?",
        r":6: n_layers: found '4'; allowed an integer from 1 to 10,000; write 4, without quotes",
        r":7: d_model: found '32_000'; allowed an integer .*; write 32000",
        r":8: head.tied: found 'yes'; allowed true or false; write true",
    )),
    "keys and rules at once": (
        GOOD.replace("heads: 4", "heads: 5")
        + "norm: {knd: 3, unit_offset: 1}\nmod: {layers: [9]}\nbudget: {params: lots}\npositions: {local_theta: 5}\n",
        (r":7: attention.n_heads: found 5; allowed a divisor", r":10: norm.knd: unknown key; .*did you mean kind", r":10: norm.unit_offset: found 1",
         r":11: mod.layers\[0\]: found 9", r":12: budget.params: found 'lots'"),
    ),
    "no rule is broken for want of what is misspelt": (
        GOOD.replace("n_heads: 4", "n_heads: 5, headdim: 16").replace("  n", "  {n").replace("16\nmlp", "16}\nmlp")
        + "positions: {kind: rotray, max_len: 32}\n", (r":7: attention.headdim: unknown", r":10: positions.kind: found 'rotray'")),
    "the nearest key of the section": (GOOD.replace("n_heads", "heads"), (
        r":6: attention.n_heads: missing", r":7: attention.heads: unknown key; .*; did you mean n_heads\?")),
    "heads that do not divide": (GOOD.replace("heads: 4", "heads: 5"), (r":7: attention.n_heads: found 5; allowed a divisor of d_model 32",)),
    "capacity 0": (GOOD + "mod:\n  capacity: 0\n", (r":11: mod.capacity: found 0; allowed a number above 0 and at most 1, an integer from 1",)),
    "capacity 0.0": (GOOD + "mod:\n  capacity: 0.0\n", (r":11: mod.capacity: found 0.0; allowed",)),
    "capacity 1.5": (GOOD + "mod:\n  capacity: 1.5\n", (r":11: mod.capacity: found 1.5; allowed",)),
    "capacity 8.0": (GOOD + "mod:\n  capacity: 8.0\n", (r":11: mod.capacity: found 8.0; .*; a count is written without a point: 8",)),
    "capacity NaN": (GOOD + "mod:\n  capacity: .nan\n", (r":11: mod.capacity: found .nan; allowed",)),
    "capacity 1e400": (GOOD + "mod:\n  capacity: 1e400\n", (r":11: mod.capacity: found 1e400; allowed",)),
    "capacity in percent": (GOOD + "mod:\n  capacity: 12.5%\n", (r":11: mod.capacity: found '12.5%'; .*; write a share as a number: 0.125",)),
    "capacity quoted": (GOOD + "mod:\n  capacity: '0.5'\n", (r":11: mod.capacity: found '0.5'; .*; write 0.5, without quotes",)),
    "capacity with a comma": (GOOD + "mod:\n  capacity: 0,125\n", (r":11: mod.capacity: found '0,125'; .*; a decimal has a point: write 0.125",)),
    "a count with a comma": (GOOD.replace("32", "1,5e3"), (r":4: d_model: found '1,5e3'; .*; a decimal has a point: write 1.5e3",)),
    "half a layer": (GOOD.replace("n_layers: 4", "n_layers: 4,5"), (r":5: n_layers: found '4,5'; .*; write a whole number",)),
    "thousands": (GOOD.replace("32", "1,024"), (r":4: d_model: found '1,024'; .*; write 1024",)),
    "an empty key": (GOOD + '"": 1\n', (r":10: '': unknown key",)),
    "rules beside a name that is missing": (GOOD.replace("heads: 4", "heads: 5").replace("name: a\n", ""), (
        r":1: name: missing", r":6: attention.n_heads: found 5; allowed a divisor")),
    "more recursions than Python's stack holds": (
        GOOD + "mod: {recursions: 101, capacity: 1.0}\n", (r":10: mod.recursions: found 101; allowed an integer from 1 to 100",)),
    "capacity of a list": (GOOD + "mod:\n  capacity: [0.5, 0]\n", (r":11: mod.capacity\[1\]: found 0; allowed",)),
    "routed block out of range": (GOOD + "mod:\n  layers: [1, 4]\n", (r":11: mod.layers\[1\]: found 4; allowed layers 0 to 3",)),
    "nothing routed on purpose?": (GOOD + "mod:\n", (r":10: mod: found nothing; .*; write null for none, or write \{\} for its defaults",)),
    "a section that needs more": (GOOD + "moe:\n", (r":10: moe: found nothing; .*; write null for none, or give it n_experts",)),
    "an empty mlp": (GOOD.partition("mlp:")[0] + "mlp:\n", (r":8: mlp: found nothing; .*; give it d_ff",)),
    "an empty norm": (GOOD + "norm:\n", (r":10: norm: found nothing; .*; write \{\} for its defaults",)),
    "a suffix": (GOOD.replace("16", "2K"), (r":3: seq_len: found '2K'; .*; write the number out",)),
    "sexagesimal": (GOOD + "train: {steps: 1:30}\n", (r":10: train.steps: found '1:30'; allowed an integer",)),
    "null": (GOOD.replace("32", "null"), (r":4: d_model: found null; allowed an integer",)),
    "true": (GOOD.replace("32", "true"), (r":4: d_model: found true; allowed an integer",)),
    "10^30": (GOOD.replace("32", "1" + 30 * "0"), (r":4: d_model: found 1e\+30; allowed an integer from 1 to 1,000,000,000",)),
    "1e30": (GOOD.replace("32", "1e30"), (r":4: d_model: found 1e\+30; allowed an integer",)),
    "5000 digits": (GOOD.replace("32", 5000 * "1"), (r":4: d_model: found a number of 5000 digits; allowed an integer",)),
    "bomb": (BOMB, (r":5: found more than 50,000 values, aliases unfolded",)),
    "bomb of mappings": (MAPPINGS, (r":5: found more than 50,000 values, aliases unfolded",)),
    "alias of itself": (GOOD + "mod: &m\n  capacity: [*m]\n", (r":11: found the alias \*m inside what it stands for",)),
    "alias of nothing": (GOOD + "mod: *m\n", (r":10: found the alias \*m before any &m",)),
    "deep": (GOOD + "mod: " + 5000 * "[", (r":10: found more than 16 levels of nesting",)),
    "deep mappings": (GOOD + "mod: " + 5000 * "{a: ", (r":10: found more than 16 levels of nesting",)),
    "long": (GOOD + "mod: {layers: [" + 60_000 * "1, " + "]}\n", (r":10: found more than 50,000 values",)),
    "tabs": (GOOD + "mod:\n\tcapacity: 0.5\n", (r":11: found a tab; allowed only spaces for indentation",)),
    "empty": ("", (r":1: found nothing; a spec is a mapping",)),
    "comments": ("# nothing\n\n", (r":1: found nothing; a spec is a mapping",)),
    "a list": ("- 1\n", (r":1: found a list; a spec is a mapping",)),
    "a word": ("hello\n", (r":1: found a single value; a spec is a mapping",)),
    "two documents": (GOOD + "---\n" + GOOD, (r":10: found a second document; allowed one spec a file",)),
    "duplicate keys": (GOOD + "name: b\nmod: {every: 1, every: 2}\n", (
        r":10: name: found a second time; allowed once; the first is in line 1", r":11: every: found a second time")),
    "duplicate and wrong": (GOOD + "name: b\nnorm: {eps: 2}\n", (r":10: name: found a second time", r":11: norm.eps: found 2; allowed")),
    "python object": (
        GOOD + "source: !!python/object/apply:os.system ['touch %s']\n",
        (r":10: found the tag !!python/object/apply:os.system; .*nothing was run",),
    ),
    "python name": (GOOD + "source: !!python/name:os.system x\n", (r":10: found the tag !!python/name:os.system",)),
    "python key": (GOOD + "!!python/name:os.system x: 1\n", (r":10: found the tag !!python/name:os.system",)),
    "own tag": (GOOD + "mod: !mod {}\n", (r":10: found the tag !mod; allowed plain values",)),
    "set": (GOOD + "mod: !!set {a, b}\n", (r":10: found the tag !!set",)),
    "tag that lies": (GOOD + "source: !!int x\n", (r":10: found 'x' with the tag !!int, which it does not fit",)),
    "a list as key": (GOOD + "? [a]\n: 3\n", (r":10: found a list, mapping or alias as a key",)),
    "colon": (GOOD + "source: a: b\n", (r":10: not readable as YAML: mapping values are not allowed .*; put text that holds ': ' in quotes",)),
    "a line too deep": (GOOD + "source: a\n  train: null\n", (
        r":11: not readable as YAML: .*; it begins in column 3, the line above in column 1: keys of one mapping begin in one column",)),
    "a line not deep enough": (GOOD + "mod:\n  capacity: 0.5\n every: 2\n", (
        r":12: not readable as YAML: .*; it begins in column 2, the line above in column 3: keys of one mapping begin in one column",)),
    "a colon below a deeper line": (GOOD + "mod:\n  capacity: 0.5\nsource: a: b\n", (
        r":12: not readable as YAML: .*; put text that holds ': ' in quotes",)),
    "no blank": (GOOD + "source:abc\nmod: null\n", (r":10: not readable as YAML: .*; put a blank behind the ':'",)),
    "no blank in the first line of a mapping": (GOOD + "mod:\n  capacity:0.5\n  every: 2\n", (
        r":11: not readable as YAML: .*; put a blank behind the ':'",)),
    "a colon in the first line of a mapping": (GOOD + "mod:\n  router: a: b\n", (
        r":11: not readable as YAML: .*; put text that holds ': ' in quotes",)),
    "a colon below a document's start": ("---\nname: a: b\n", (r":2: not readable as YAML: .*; put text that holds ': ' in quotes",)),
    "a colon below a list's end": (GOOD + "source:\n  x: [1,\n  2]\n  y: a: b\n", (
        r":13: not readable as YAML: .*; put text that holds ': ' in quotes",)),
    "a colon below a comment": (GOOD + "mod:  # depth\n  router: a: b\n", (r":11: not readable as YAML: .*; put text that holds ': ' in quotes",)),
    "a colon in an item": (GOOD + "mod:\n- a: 1\n  b: c: d\n", (r":12: not readable as YAML: .*; put text that holds ': ' in quotes",)),
    "no colon": (GOOD + "source abc\nmod: null\n", (r":10: not readable as YAML: .*; a key is followed by ': ' and its value",)),
    "no blank below a key": (GOOD + "mod:\n  capacity:0.5\n", (r":10: mod: found 'capacity:0.5'; allowed .*; put a blank behind the ':'",)),
    "open quote": (GOOD + "source: 'abc\n# text\n", (r":10: not readable as YAML: ",)),
    "open bracket": (GOOD + "mod: {capacity: [1\n", (r":10: not readable as YAML: ",)),
    "open bracket above others": (GOOD + "mod: {capacity: [1, 2\nparallel: none\n", (r":10: not readable as YAML: ",)),
    "no comma": (GOOD + "mod: {\n  capacity: 0.5,\n  every: 2\n  keys: all,\n}\n", (r":13: not readable as YAML: ",)),
    "bad escape in the second line": (GOOD + 'source: "a\n  \\q"\n', (r":11: not readable as YAML: ",)),
    "bad escape": (GOOD + 'source: "\\q"\n', (r":10: not readable as YAML: ",)),
    "bad directive": ("%YAML 9.9\n---\n" + GOOD, (r":\d+: not readable as YAML: ",)),
    "binary": (b"\x7fELF\x02\x01\x01\x00\x00", (r":1: found the character U\+007F; allowed plain text; is this a spec\?",)),
    "binary below": (GOOD.encode() + b"\x89PNG\r\n", (r":10: found byte 0x89; allowed text in UTF-8",)),
    "utf-16": (GOOD.encode("utf-16"), (r":1: found byte 0xff; allowed text in UTF-8",)),
    "surrogate": (GOOD.encode() + b"source: \xed\xa0\x80\n", (r":10: found byte 0xed; allowed text in UTF-8",)),
    "escape character": (GOOD + "source: \x1b[31mred\n", (r":10: found the character U\+001B",)),
    "delete": (GOOD + "source: \x7f\n", (r":10: found the character U\+007F",)),
    "line separator": (GOOD + "source: x # a\u2028b\n", (r":10: found the character U\+2028",)),
    "too large": ("# " + MAX_BYTES * "x" + "\n" + GOOD, (r": found more than 256 KiB; a spec is a short file",)),
    "long name": (GOOD.replace("name: a", "name: " + 300 * "a"), (r":1: name: found '.{,60}; allowed 1 to 200 printable characters",)),
    "escapes in keys": (GOOD + '"\\e[31m": 1\n"\\e[31m": 1\n', (
        r":10: \\x1b\[31m: unknown key", r":11: \\x1b\[31m: found a second time")),
    "escapes in a tag": (GOOD + "source: !%1B x\n", (r":10: found the tag !(%1B|\\x1b); allowed",)),
    "long key": (GOOD + 5000 * "k" + ": 1\n", (r":10: .*",)),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_bad_file(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, said = FILES[case]
    monkeypatch.chdir(tmp_path)
    if isinstance(content, str):
        content = content.replace("%s", str(tmp_path / "pwned")).encode()
    Path("bad.yaml").write_bytes(content)
    start = time.process_time()
    with pytest.raises(SpecError) as wrong:
        load("bad.yaml")
    assert time.process_time() - start < HANG_S
    problems = str(wrong.value).splitlines()
    assert len(problems) == len(said), problems
    for problem, pattern in zip(problems, said, strict=True):
        assert re.match(f"bad.yaml{pattern}", problem), problem
        assert len(problem) < 600 and problem.isprintable()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.yaml"], "something was run"


@pytest.mark.parametrize(
    "text",
    [
        GOOD + "".join(f"key_{i}: 1\n" for i in range(20_000)),
        GOOD + "mod:\n  layers:\n" + 40_000 * "  - x\n",
        GOOD + "mod:\n  layers:\n" + 40_000 * "  - 4\n",
        GOOD + 20_000 * "x: 1\n",
        GOOD + "mod: {capacity: [" + 30_000 * "'12.5%', " + "]}\n",
    ],
    ids=range(5),
)
def test_thousands_of_problems_are_counted_not_listed(text: str) -> None:
    start = time.process_time()
    with pytest.raises(SpecError) as wrong:
        loads(text, "bad.yaml")
    assert time.process_time() - start < HANG_S
    *told, last = wrong.value.problems
    assert len(told) == 50 and all(problem.startswith("bad.yaml:") for problem in told)
    assert re.fullmatch(r"bad.yaml:\d+: [0-9,]{5,6} more problems from here on", last)


PLACES = {
    "": "'': allowed are names of 1 to 999 characters that can be shown",
    "a\0b": "'a\\x00b': allowed are names of 1 to 999 characters that can be shown",
    "x" * 5000: "allowed are names of 1 to 999 characters that can be shown",
    "y" * 500: "not readable: File name too long",
    "missing.yaml": "missing.yaml: no such file, and no shipped spec of that name",
    "folder": "folder: found a folder without config.json; allowed a YAML spec, a config.json or a folder that holds one",
    "folder/missing/config.json": "no such file",
    "/dev/null": "/dev/null:1: found nothing",
    "/dev/zero": "/dev/zero: found more than 256 KiB",
    "mod-22m": "did you mean mod-220m",
}


@pytest.mark.parametrize("place", PLACES, ids=range(len(PLACES)))
def test_a_bad_place(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    with pytest.raises(SpecError) as wrong:
        load(place)
    assert len(wrong.value.problems) == 1 and PLACES[place] in str(wrong.value)
    assert str(wrong.value).isprintable()


def command(*args: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["modcalc", *args])
    with pytest.raises(SystemExit) as stop:
        app.main()
    return stop.value.code


@pytest.mark.parametrize("case", ["unknown key", "wrong types", "bomb", "empty", "binary", "python object", "capacity NaN", "two documents"])
def test_the_command_says_it_on_stderr_and_exits_2(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    content, said = FILES[case]
    file = tmp_path / "bad.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.replace("%s", str(tmp_path / "pwned")).encode())
    assert command("flops", str(file), "--count", "analytic", monkeypatch=monkeypatch) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    lines = err.splitlines()
    assert len(lines) == len(said) and all(line.startswith(f"error: {file}:") for line in lines)
    assert not (tmp_path / "pwned").exists()

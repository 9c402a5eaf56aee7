"""Tables, documents and plots: what is printed, in every format, to every kind of stdout."""

import csv
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from fractions import Fraction
from pathlib import Path

import pytest

from modcalc.errors import UsageError
from modcalc.render.breakdown import in_order
from modcalc.render.numbers import change, machine, ratio, share
from modcalc.render.output import FORMATS, chosen, emit, facts, machine_values, say, show
from modcalc.render.progress import progress, working
from modcalc.render.table import Column, Table, bad, good
from modcalc.render.terminal import boxed, fitting
from modcalc.render.wording import numbered

ROOT = Path(__file__).parent.parent
BIG = 10**24 + 1
TABLE = Table(
    title="a title",
    headline=("what was counted", "by which convention"),
    columns=(Column("name"), Column("FLOPs", "count", "flops"), Column("share", "share", drop=1), Column("size", "bytes", drop=2)),
    rows=[("a|b & c_d", BIG, Fraction(1, 3), 2**31), ("none", None, None, None), (good("yes"), Fraction(7, 2), 0.0001, 5)],
    total=("total", BIG + 4, 1, 2**31 + 5),
    notes=("a note",),
)


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


def printed(capsys: pytest.CaptureFixture[str], format: str | None) -> tuple[str, str]:
    emit({"value": 1}, [TABLE], format)
    captured = capsys.readouterr()
    return captured.out, captured.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (share(Fraction(1, 8)), "12.5 %"),
        (share(0.0004), "< 0.1 %"),
        (share(0), "0.0 %"),
        (share(0.0005), "0.1 %"),
        (change(10), "+1,000 %"),
        (ratio(-12345), "-12,345.00"),
        (change(-0.0663), "-6.63 %"),
        (change(Fraction(10**15)), "+1.00e+17 %"),
        (change(Fraction(12345678)), "+1,234,567,800 %"),
        (ratio(Fraction(1, 3)), "0.3333"),
        (ratio(12345), "12,345.00"),
        (ratio(0.00004), "< 0.0001"),
        (ratio(0), "0.0000"),
    ],
)
def test_numbers(text: str, expected: str) -> None:
    assert text == expected


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("count", BIG, f"{BIG:,}"),
        ("count", Fraction(7, 2), "~4"),
        ("count", float("inf"), "-"),
        ("count", None, "-"),
        ("share", float("nan"), "-"),
        ("share", Fraction(1, 2), "50.0 %"),
        ("bytes", 2**31, "2.00 GiB"),
        ("si", 2_620_000_000, "2.62 G"),
        ("real", 0.123456, "0.1235"),
        ("seconds", 0.0123, "12.3 ms"),
        ("count", "given as text", "given as text"),
        ("text", bad("DROP"), "DROP"),
    ],
)
def test_cells(kind: str, value: object, expected: str) -> None:
    assert Column("x", kind).text(value) == expected


def test_plain_is_aligned_and_uncoloured(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = printed(capsys, "plain")
    assert err == ""
    assert "\x1b" not in out and out.isascii()
    lines = out.splitlines()
    assert lines[:4] == ["a title", "what was counted", "by which convention", ""]
    head, *grid = lines[4:-2]
    assert lines[-1] == "a note"
    assert head.split() == ["name", "FLOPs", "share", "size"]
    assert [line for line in grid if set(line) == {"-"}] == [grid[0], grid[-2]]  # below the header and above the total
    numbers = [line for line in grid if set(line) != {"-"}]
    assert len({len(line) for line in [head, *numbers]}) == 1  # the last column stands at the right
    end = head.index("FLOPs") + len("FLOPs")
    assert [line[:end].split()[-1] for line in numbers] == [f"{BIG:,}", "-", "~4", f"{BIG + 4:,}"]


def test_automatic_format_is_plain_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, None) == printed(capsys, "plain")


def test_boxes_on_request_are_uncoloured_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = printed(capsys, "table")
    assert "╭" in out and "\x1b" not in out
    assert f"{BIG:,}" in out and "2.00 GiB" in out  # a pipe has no width: no column is left out


def test_csv_is_raw_and_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = printed(capsys, "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["name", "flops", "share", "size"]
    assert [row["flops"] for row in rows] == [str(BIG), "", "3.5"]  # no total: it is the sum
    assert rows[0]["name"] == "a|b & c_d" and rows[2]["name"] == "yes"
    assert float(rows[0]["share"]) == 1 / 3
    assert err.splitlines() == ["a title", "what was counted", "by which convention", "a note"]


def test_csv_of_a_total_alone(capsys: pytest.CaptureFixture[str]) -> None:
    show([Table(columns=TABLE.columns, rows=[], total=TABLE.total)], "csv")
    assert list(csv.DictReader(io.StringIO(capsys.readouterr().out)))[0]["flops"] == str(BIG + 4)


def test_plain_text_of_a_total_alone(capsys: pytest.CaptureFixture[str]) -> None:
    show([Table(columns=(Column("name"), Column("n", "count")), rows=[], total=("total", 7))], "plain")
    assert capsys.readouterr().out.splitlines() == ["name   n", "--------", "total  7"]


def test_recursions_stand_before_the_blocks_that_they_share() -> None:
    labels = ["embedding", "blocks.0", "recursions.1", "blocks.10", "blocks.9", "recursions.0", "head"]
    assert in_order(labels, str) == ["embedding", "recursions.0", "recursions.1", "blocks.0", "blocks.9", "blocks.10", "head"]


def test_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = printed(capsys, "markdown")
    grid = [re.split(r"(?<!\\)\|", line)[1:-1] for line in out.splitlines() if line.startswith("|")]
    assert [len(row) for row in grid] == [4] * 6  # header, rule, three rows, total: a | inside a cell splits none
    assert [c.strip()[0] + c.strip()[-1] for c in grid[1]] == [":-", "-:", "-:", "-:"]  # left, then right
    assert grid[-1][1].strip() == f"**{BIG + 4:,}**"
    assert out.startswith("### a title\n") and out.endswith("- a note\n")


@pytest.mark.parametrize(
    "text, shown",
    [
        ("<b>bold</b>", "\\<b>bold\\</b>"), ("*star*", "\\*star\\*"), ("_a_ d_model", "\\_a\\_ d_model"), ("`x`", "\\`x\\`"),
        ("[l](u) [FLOPs]", "\\[l](u) [FLOPs]"), ("__init__", "\\_\\_init\\_\\_"), ("~~x~~ &lt;", "\\~\\~x\\~\\~ \\&lt;"),
        ("back\\|slash", "back\\\\\\|slash"), ("< 0.1 % of 2 * 3", "< 0.1 % of 2 * 3"),
    ],
)  # fmt: skip
def test_names_are_no_markup_in_markdown(capsys: pytest.CaptureFixture[str], text: str, shown: str) -> None:
    show([Table(title=text, headline=[text], columns=[Column("name")], rows=[(text,)], notes=[text])], "markdown")
    facts([("label", text)], "markdown")
    out = capsys.readouterr().out
    assert out.count(shown) == 5 and out.count(text) == (5 if text in shown else 0)


def test_a_row_of_latex_begins_with_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    show([Table(columns=[Column("name")], rows=[("[bold]",), ("*star*",), ("x",)])], "latex")
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.endswith("\\\\")]
    assert [row[0] for row in rows] == ["name", "{}[bold]", "{}*star*", "x"]


@pytest.mark.parametrize("width", [40, 60, 80])
def test_wide_characters_take_no_place_of_digits(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    names = ["\N{CJK UNIFIED IDEOGRAPH-6A21}" * 16, "\N{CJK UNIFIED IDEOGRAPH-578B}" * 6]
    text = boxed(Table(columns=[Column("component"), *(Column(name, "count") for name in names)], rows=[("attention", 123456789, 12)]))
    assert "123,456,789" in text and "attention" in text and all(name in text for name in names)


def test_latex(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = printed(capsys, "latex")
    body = [line for line in out.splitlines() if not line.startswith("%")]
    assert r"% needs \usepackage{booktabs}" in out.splitlines()
    assert body[0] == r"\begin{tabular}{lrrr}" and body[-1] == r"\end{tabular}"
    assert [line for line in body if line in (r"\toprule", r"\midrule", r"\bottomrule")] == [r"\toprule", r"\midrule", r"\midrule", r"\bottomrule"]
    rows = [line for line in body if line.endswith(r"\\")]
    assert len(rows) == 5
    assert all(len(re.findall(r"(?<!\\)&", row)) == 3 for row in rows)  # & of a cell is escaped
    assert r"c\_d" in rows[1] and r"\%" in rows[1]
    assert "% a note" in out.splitlines()


def test_json_is_one_document_of_exact_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    values = {
        "big": BIG,
        "whole": Fraction(6, 2),
        "part": Fraction(1, 4),
        "nan": float("nan"),
        "none": None,
        "many": [3, (0.5,)],
    }
    emit(values, [TABLE], "json")
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert next(iter(document)) == "schema"
    assert document == {"schema": 1, "big": BIG, "whole": 3, "part": 0.25, "nan": None, "none": None, "many": [3, [0.5]]}
    assert captured.err == ""
    assert isinstance(machine(Fraction(6, 2)), int) and machine_values({1: float("inf")}) == {"1": None}


def test_text_that_belongs_to_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    seen = {}
    for format in FORMATS:
        facts([("label", "text"), ("", good("fine"))], format)
        say(["line"], format)
        seen[format] = capsys.readouterr()
    assert seen["plain"].out == "label: text\nfine\nline\n"
    assert seen["markdown"].out == "- **label**: text\n- fine\n- line\n"
    assert seen["latex"].out == "% label: text\n% fine\n% line\n"
    assert (seen["csv"].out, seen["csv"].err) == ("", "label: text\nfine\nline\n")
    assert (seen["json"].out, seen["json"].err) == ("", "")
    assert seen["table"].out.split() == ["label", "text", "fine", "line"]


def test_unknown_format() -> None:
    with pytest.raises(UsageError, match="markdown"):
        chosen("yaml")


@pytest.mark.parametrize(("width", "left_out"), [(200, []), (62, ["size"]), (20, ["share", "size"])])
def test_columns_that_may_go_on_a_narrow_terminal(width: int, left_out: list[str]) -> None:
    keep, wide = fitting(TABLE, width)
    assert [c.title for i, c in enumerate(TABLE.columns) if i not in keep] == left_out
    assert sum(wide[i] + 3 for i in keep) + 1 <= width or not any(TABLE.columns[i].drop for i in keep)


def test_a_column_goes_where_one_place_lacks_and_text_is_squeezed_for_the_last_alone() -> None:
    table = Table(columns=[Column("ab"), Column("cd", drop=1)], rows=[["xx", "yy"]])
    assert [fitting(table, width)[0] for width in (11, 10)] == [[0, 1], [0]]
    tables = [Table(columns=[Column("ab"), Column("n", "count", drop=drop)], rows=[["long words of a name", 7]]) for drop in (4, 5)]
    assert [fitting(table, 22)[0] for table in tables] == [[0, 1], [0]]


def test_headers_wrap_before_a_column_goes() -> None:
    table = Table(columns=[Column("name"), Column("trained, per token", "count", unit="FLOPs", drop=1)], rows=[["a", 854438400]])
    assert [fitting(table, width) for width in (60, 30)] == [([0, 1], [4, 26]), ([0, 1], [4, 11])]


@pytest.mark.parametrize(
    ("command", "row"),
    [
        (["conventions", "llama-2-7b"], "│ convention "),
        (["flops", "mod-3b", "--backward", "--count", "analytic"], "│ total "),
        (["flops", "mod-3b", "gpt2", "--backward", "--count", "analytic"], "│ gpt2 "),
        (["memory", "mod-3b"], "│ total "),
        (["check", "mod-220m", "mod-3b"], "│ mod-3b "),
        (["isoflop", "dense-220m", "--budget", "1e21", "--beside", "mod-220m", "--limit", "2"], "│ layers "),
        (["isoflop", "mod-3b", "--match", "dense-3b", "--limit", "2"], "│ layers "),
        (["memory", "llama-2-7b", "dense-3b"], "│ llama-2-7b "),
    ],
)
def test_a_terminal_of_80_columns_breaks_no_line(command: list[str], row: str) -> None:
    code = "import sys; sys.stdout.isatty = lambda: True; from modcalc.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--format", "table"],
        capture_output=True, text=True, encoding="utf-8", env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    lines = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).splitlines()
    assert done.returncode == 0 and max(map(len, lines)) <= 80
    assert any(line.startswith(row) for line in lines)


def test_what_a_narrow_table_has_no_room_for_may_stand_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = Column("share", "share", "own_share", drop=1), Column("share", "share")
    columns = [Column("name"), *shares, Column("note", drop=2, below=True)]
    table = Table(columns=columns, rows=[["a", 0.5, 0.25, "long " * 20], ["b", 0.5, 0.25, "short"]])
    monkeypatch.setenv("COLUMNS", "20")
    grid, below = re.sub(r"\x1b\[[0-9;]*m", "", boxed(table)).split("╯")
    assert "note" not in grid and grid.count("share") == 1
    assert " ".join(below.split()) == f"a {'long ' * 20}b short too narrow for: share of name (--format plain shows all)"


def test_encodings_without_our_characters_lose_them_only() -> None:
    code = "from modcalc.render import output, table; output.show([table.Table(columns=[table.Column('név')], rows=[['ő']])], 'plain')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout.split()) == (0, [b"n?v", b"---", b"?"])


@pytest.mark.parametrize("format", ["json", "csv"])
def test_what_programs_read_is_utf8_whatever_the_locale(format: str, tmp_path: Path) -> None:
    spec = "{name: ő模, vocab_size: 9, seq_len: 4, d_model: 8, n_layers: 1, attention: {n_heads: 1}, mlp: {d_ff: 8}}"
    (tmp_path / "név.yaml").write_text(spec, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "modcalc.cli.app", "flops", "név.yaml", "név.yaml", "--count", "analytic", "--format", format],
        capture_output=True, cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "cp1252"},
    )  # fmt: skip
    assert done.returncode == 0 and "ő模" in done.stdout.decode()


def on_terminal(code: str, columns: int = 80, **environment: str) -> str:
    """What `python -c code` prints where stdout and stderr are a terminal of so many columns."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")} | {"TERM": "xterm-256color"} | environment
    process = subprocess.Popen([sys.executable, "-c", code], stdout=follower, stderr=follower, stdin=follower, env=env, cwd=ROOT)
    os.close(follower)
    out = b""
    try:
        while chunk := os.read(leader, 65536):
            out += chunk
    except OSError:  # the other end is closed: how a terminal says that all was read
        pass
    os.close(leader)
    assert process.wait(timeout=60) == 0, out.decode()
    return out.decode().replace("\r\n", "\n")


SHOW = "from tests.test_render import TABLE; from modcalc.render.output import facts, show; show([TABLE]); facts([('label', 'word ' * 40)])"
COLOUR = re.compile(r"\x1b\[[0-9;]*(3[0-7]|4[0-7]|38;5;\d+|9[0-7])m")
CODE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.mark.parametrize("columns", [62, 80, 120])
def test_on_a_terminal(columns: int) -> None:
    out = on_terminal(SHOW, columns)
    assert COLOUR.search(out) and "╭" in out
    lines = CODE.sub("", out).splitlines()
    assert max(map(len, lines)) <= columns
    assert any(f"{BIG + 4:,}" in line for line in lines)  # numbers are whole
    assert ("too narrow for: size" in CODE.sub("", out)) == (columns == 62)
    wrapped = [line for line in lines if "word" in line]
    assert len(wrapped) > 1 and {line.index("word") for line in wrapped} == {wrapped[0].index("word")}  # texts stay beside their label


def test_no_digit_is_cut_off_where_nothing_fits() -> None:
    out = CODE.sub("", on_terminal(SHOW, 30))
    assert f"{BIG + 4:,}" in out.replace("\n", "") and "…" not in out


def test_no_color_is_honoured() -> None:
    out = on_terminal(SHOW, NO_COLOR="1")
    assert not COLOUR.search(out) and "╭" in out


def test_a_dumb_terminal_gets_plain_text() -> None:
    out = on_terminal(SHOW, TERM="dumb")
    assert "\x1b" not in out and "╭" not in out and "-----" in out


WAIT = (
    "from modcalc.render.progress import progress, working\n"
    "with working('thinking') as say: say('hard')\nwith progress('looking', 3) as advance: advance(3)"
)


def test_progress_on_a_terminal_leaves_nothing_behind() -> None:
    out = on_terminal(WAIT)
    assert "hard; thinking" in out and "looking" in out and "\x1b[?25h" in out  # drawn, and the cursor is back


def test_progress_elsewhere_is_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with working("thinking") as say:
        say("hard")
    with progress("looking", 3) as advance:
        advance(3)
    assert capsys.readouterr() == ("", "thinking ...\nlooking ...\n")


def test_plain_columns_stand_under_each_other_whatever_the_characters(capsys: pytest.CaptureFixture[str]) -> None:
    places = {"plain": 5, "模型 🚀": 7, "e\u0301te\u0301": 3}
    show([Table(columns=(Column("name"), Column("n", "count")), rows=[(name, 7) for name in places])], "plain")
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [len(line) - len(name) + wide for line, (name, wide) in zip(lines, places.items(), strict=True)] == [7 + 2 + 1] * 3


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ([1], "block 1"),
        ([0, 1, 2, 3], "blocks 0 to 3"),
        ([1, 3, 5, 7], "blocks 1, 3, 5, 7"),
        ([1, 3, 5, 7, 9], "blocks 1, 3, ..., 9"),
        ([0, 1, 2, 4, 5, 6], "blocks 0 to 2, 4 to 6"),
        ([0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13], "blocks 0 to 2, 4 to 6, ..., 12, 13"),
        ([0, 2, 3, 9], "blocks 0, 2, 3, 9"),
    ],
)
def test_blocks_in_few_words(numbers: list[int], said: str) -> None:
    assert numbered([f"blocks.{i}" for i in numbers]) == f"{said} (from 0)"

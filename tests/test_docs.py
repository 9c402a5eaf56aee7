"""README.md and docs/: every command and example in them is run, and prints what they say it prints."""

import contextlib
import io
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from modcalc.cli import app
from modcalc.spec.hub_types import TYPES
from modcalc.spec.load import loads

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Not run, by their first words, and why.
SKIPPED = {
    "python3 -m venv .venv": "makes a virtual environment; .ci/run runs what the README shows",
    "pip install": "fetches packages",
    "torchrun": "needs eight GPUs; tests/test_profile_distributed.py runs two processes",
}
CUT = " ..."


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(page, text.count("\n", 0, found.start()) + 1, found[1], found[2])


BLOCKS = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in BLOCKS if block.language in ("console", "sh")]
SPECS = [block for block in BLOCKS if block.language == "yaml" and "vocab_size:" in block.text]


def commands(block: Block) -> list[tuple[str, list[str]]]:
    """Command, and the lines of output below it. In `sh` blocks every line is a command, in `console` blocks those after `$ `."""
    if block.language == "sh":
        return [(line.partition("  #")[0].strip(), []) for line in block.lines]
    found: list[tuple[str, list[str]]] = []
    for line in block.lines:
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages speak of: specs that name themselves in their first line, and an imported model."""
    for block in SPECS:
        name = re.match(r"# (\S+\.yaml)\n", block.text)
        if name:
            (tmp_path / name[1]).write_text(block.text, encoding="utf-8")
    folder = tmp_path / "Llama-3.2-1B"
    folder.mkdir()
    shutil.copy(ROOT / "tests" / "data" / "configs" / "llama-3.2-1b.json", folder / "config.json")
    for shipped in ("specs", "benchmarks"):
        (tmp_path / shipped).symlink_to(ROOT / shipped)
    monkeypatch.chdir(tmp_path)
    for variable in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[str]]:
    """Exit code, and lines of stdout and stderr, of `modcalc …` in this process."""
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
        app.main()
    return stop.value.code, [line.rstrip() for line in (out.getvalue() + err.getvalue()).splitlines()]


def is_skipped(command: str) -> bool:
    return any(command.startswith(words) for words in SKIPPED)


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_do_what_the_page_says(block: Block, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = 0
    for command, printed in commands(block):
        if is_skipped(command):
            continue
        if command == "echo $?":
            assert printed == [str(code)]
            code = 0
            continue
        assert code == 0, "a command fails, and the page does not say so with `echo $?`"
        assert command.startswith("modcalc "), f"{command!r} is neither run nor in SKIPPED"
        code, actual = run(command, monkeypatch)
        rest = iter(actual)
        for line in printed:
            wanted = line.rstrip()
            if wanted.endswith(CUT):
                start = wanted.removesuffix(CUT)
                found = any(one.startswith(start) and len(one) > len(start) for one in rest)
            else:
                found = wanted in rest
            assert found, "\n".join([f"{block}: not printed (in this order): {line}", *actual])
    assert code == 0, "a command fails, and the page does not say so with `echo $?`"


def test_nothing_is_skipped_in_vain() -> None:
    all_of_them = [command for block in SHELL for command, _ in commands(block)]
    assert all(any(command.startswith(words) for command in all_of_them) for words in SKIPPED)


@pytest.mark.parametrize("page", [page for page in PAGES if any(b.page == page and b.language == "python" for b in BLOCKS)], ids=lambda p: p.name)
def test_python_examples_print_what_their_comments_say(page: Path, workplace: Path) -> None:
    """The blocks of a page are one session; `print(…)  # text` prints that text."""
    pytest.importorskip("torch")
    names: dict[str, object] = {}
    for block in (b for b in BLOCKS if b.page == page and b.language == "python"):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile("\n" * block.line + block.text, str(page), "exec"), names)
        said = [line.partition("  # ")[2] for line in block.lines if line.startswith("print(")]
        assert out.getvalue().splitlines() == said, str(block)


@pytest.mark.parametrize("block", SPECS, ids=str)
def test_specs_load(block: Block) -> None:
    loads(block.text)


@pytest.mark.parametrize("marker", ["main", "test"])
def test_the_two_commands_can_be_extracted(marker: str) -> None:
    """As .ci/run does it: the one line of the block below the marker, with a virtual environment that it can rename."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(rf"^<!-- {marker} -->\n```sh\n(.*)\n```$", readme, re.MULTILINE)
    assert ".venv/bin/" in command and command.startswith("python3 -m venv .venv && ")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "<!-- test -->" in script and "README.md" in script


def anchors(page: Path) -> set[str]:
    """What a link into a page may name, as GitHub makes it: its headings in small letters, and ids of its own."""
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings} | set(re.findall(r'<a id="(.*?)">', text))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(there), f"{page.name}: {target}"


def test_workflow_and_hook_are_given_what_they_take() -> None:
    shown = {block.lines[0]: yaml.safe_load(block.text) for block in BLOCKS if "OWNER/modcalc" in block.text}
    (job,), hook = shown["# .github/workflows/budgets.yml"]["jobs"].values(), shown["# .pre-commit-config.yaml"]
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    assert set(job["steps"][-1]["with"]) <= set(action["inputs"])
    (offered,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert [one["id"] for one in hook["repos"][0]["hooks"]] == [offered["id"]]


def test_the_page_of_the_spec_is_up_to_date() -> None:
    generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    assert (ROOT / "docs" / "spec.md").read_text(encoding="utf-8") == generate["text"](), "run: python docs/generate.py"


def test_every_model_type_is_named() -> None:
    text, readme = ((ROOT / page).read_text(encoding="utf-8").replace("\n", " ") for page in ("docs/transformers.md", "README.md"))
    count, dense, experts = re.search(r"(\d+) types of models.*?  Dense: (.*?)\.  With experts: (.*?)\. ", text).groups()
    names = [*dense.split(", "), *experts.split(", ")]
    assert len(names) == int(count) and set(names) == set(TYPES) and f"{count} types of models ([list]" in readme
    assert {name for name, kind in TYPES.items() if "moe.n_experts" in kind.knobs} == set(experts.split(", "))

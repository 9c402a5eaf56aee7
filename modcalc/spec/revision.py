"""A spec as it stands in a file, or as it stood in a git revision."""

import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from modcalc.errors import MissingDependency, SpecError, UsageError
from modcalc.spec.load import MAX_BYTES, demand_no_section, load, loads, sectioned
from modcalc.spec.schema import Spec
from modcalc.spec.text import decoded


def load_side(text: str) -> Spec:
    """Load as `load` does; or REVISION:FILE, the file (relative to the current folder) in that git revision.

    Raises SpecError for a bad spec, UsageError where git knows no such revision or file, MissingDependency without git.
    """
    revision, colon, file = text.partition(":")
    if not colon or not file or os.path.exists(text) or revision.startswith("-"):
        return load(text)
    if not revision.strip():  # git would take its index
        raise UsageError(f"{text}: an empty revision; is a variable not set?")
    file, section = sectioned(file)
    if _git(file, "cat-file", "-t", revision).stdout == b"tree\n":
        file = os.path.join(file, "config.json")
    done = _git(file, "show", revision)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        why = next((line for line in said if line.startswith("fatal:")), said[-1])  # advice of some lines may follow
        raise UsageError(f"{text}: git cannot show it: {why}; write REVISION:FILE, as in HEAD~1:spec.yaml")
    if file.endswith(".json"):
        return _config(done.stdout, file, section, text)
    demand_no_section(text, section)
    return loads(decoded(done.stdout, text, MAX_BYTES, "a spec"), file=text)


def is_new(revision: str, file: str) -> bool:
    """Whether a file that is there stands in a repository that knows the revision, but not the file in it. Raises MissingDependency
    without git.
    """
    file = str(sectioned(file)[0])
    if os.path.isdir(file):
        file = os.path.join(file, "config.json")
    if revision.startswith("-") or not os.path.exists(file):
        return False
    # Not whether the file can be read: of a partial clone it may lie elsewhere.
    listed = _git(file, "ls-tree", revision, apart=True)
    return listed.returncode == 0 and not listed.stdout


def _git(file: str, *words: str, apart: bool = False) -> subprocess.CompletedProcess[bytes]:
    """git, asked about REVISION:FILE, the last of `words` being the revision; apart: as two words. It works where the file is, whatever
    the current folder, the links on the way there, and the repository whose hook this may be.
    """
    path = Path(os.path.realpath(file))
    folder = next(at for at in (path, *path.parents) if os.path.isdir(at))
    *words, revision = words
    name = f"./{path.relative_to(folder)}"
    named = [revision, "--", name] if apart else [f"{revision}:{name}"]
    env = dict(os.environ)
    if "GIT_WORK_TREE" not in env:
        env.pop("GIT_DIR", None)  # of a hook: git would take the folder for the top of the files
    env |= {name: os.path.abspath(env[name]) for name in ("GIT_DIR", "GIT_WORK_TREE") if name in env}
    try:
        return subprocess.run(["git", "-C", str(folder), *words, *named], capture_output=True, check=False, env=env)
    except FileNotFoundError:
        raise MissingDependency("reading a revision needs git, which is not installed") from None


def _config(raw: bytes, file: str, section: str | None, text: str) -> Spec:
    """The Spec of a config.json's content. It is named after its folder, so it is read from a folder of that name."""
    from modcalc.spec.hub import from_config

    with TemporaryDirectory() as folder:
        path = Path(folder, Path(file).resolve().parent.name, Path(file).name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(raw)
        try:
            return from_config(path, section)
        except SpecError as wrong:
            raise SpecError([problem.replace(str(path), text) for problem in wrong.problems]) from None

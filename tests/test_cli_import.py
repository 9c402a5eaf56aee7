"""`modcalc import`: prints, writes whole or not at all, refuses with one message and exit code 2."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from hub_configs import CONFIGS

from modcalc.spec.hub import from_config
from modcalc.spec.load import dump, load, loads
from modcalc.spec.mod_option import apply_mod

GPT2 = str(CONFIGS / "gpt2.json")


@pytest.fixture
def run(modcalc):
    """(exit code, stdout, stderr) of `modcalc import ARGS`."""
    return partial(modcalc, "import")


def test_prints_a_spec(run) -> None:
    code, out, err = run(GPT2)
    assert (code, err) == (0, "")
    assert loads(out) == from_config(GPT2)


def test_prints_utf8_whatever_the_locale(tmp_path: Path) -> None:
    (tmp_path / "ő模.json").write_text(Path(GPT2).read_text())
    words = [sys.executable, "-m", "modcalc.cli.app", "import", "ő模.json"]
    done = subprocess.run(words, capture_output=True, cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "cp1252"})
    assert done.returncode == 0 and loads(done.stdout.decode()).name == "ő模"


def test_as_mixture_of_depths_at_another_length(run) -> None:
    code, out, _ = run(GPT2, "--mod", "capacity=0.125,every=2", "--seq-len", "512")
    spec = loads(out)
    assert code == 0 and spec.seq_len == 512 and spec.name == "gpt2-mod"
    assert spec.mod == apply_mod(from_config(GPT2), "capacity=0.125,every=2").mod


def test_writes_once(run, tmp_path: Path) -> None:
    file = tmp_path / "gpt2.yaml"
    code, out, err = run(GPT2, "-o", str(file))
    assert (code, out, err) == (0, "", f"wrote {file}\n")
    assert load(file) == from_config(GPT2)
    before = file.read_bytes()
    code, out, err = run(str(CONFIGS / "phi-2.json"), "-o", str(file))
    assert (code, out) == (2, "") and "exists already" in err and "--force" in err
    assert file.read_bytes() == before
    assert run(str(CONFIGS / "phi-2.json"), "-o", str(file), "--force")[0] == 0
    assert load(file).name == "phi-2"
    assert os.listdir(tmp_path) == ["gpt2.yaml"], "nothing else is left"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"model_type": "llama", "hidden_size": 40', "cut off"),
        ('{"model_type": "llama", "hidden_size": "4096"}', "hidden_size"),
        ('{"model_type": "lama"}', "did you mean llama?"),
        ('{"model_type": "t5", "is_encoder_decoder": true}', "encoder-decoder"),
        ('{"model_type": "llama", "num_attention_heads": 24}', "do not divide"),
    ],
)
def test_a_bad_config_writes_nothing(run, tmp_path: Path, content: str, said: str) -> None:
    config = tmp_path / "config.json"
    config.write_text(content)
    file = tmp_path / "spec.yaml"
    code, out, err = run(str(config), "-o", str(file))
    assert (code, out) == (2, "") and said in err and err.startswith("error: ") and "Traceback" not in err
    assert os.listdir(tmp_path) == ["config.json"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("missing.json",), "No such file"),
        ((GPT2, "--mod", "evry=2"), "did you mean every?"),
        ((GPT2, "--seq-len", "4096"), "positions.max_len"),
        ((GPT2, "--force"), "nothing to overwrite"),
        ((GPT2, "-o", "."), "is a folder"),
        ((GPT2, "-o", "no/such/folder/x.yaml"), "cannot be written"),
        ((GPT2, "-o", "\0"), "cannot be written"),
        ((GPT2, "-o", "spec.json"), "a spec is YAML"),
        (("spec.yaml",), "YAML is what import writes"),
    ],
)
def test_refused(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], said: str) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*args)
    assert (code, out) == (2, "") and said in err
    assert not os.listdir(tmp_path)


def test_what_is_no_file_is_not_replaced(run, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code, out, err = run(GPT2, "-o", str(pipe), "--force")
    assert (code, out) == (2, "") and "is no regular file" in err and pipe.is_fifo()


def test_what_cannot_be_put_in_its_place_leaves_nothing(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(part: Path, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    code, out, err = run(GPT2, "-o", str(tmp_path / "x.yaml"))
    assert (code, out) == (2, "") and "No space left on device" in err and not os.listdir(tmp_path)


def test_stdout_is_the_spec(run) -> None:
    assert run(GPT2)[1] == dump(from_config(GPT2))


def test_a_folder_name_stands_for_its_config(run, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_layer": 2}))
    code, out, _ = run(str(folder))
    assert code == 0 and loads(out).name == "tiny" and loads(out).n_layers == 2


def test_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from modcalc.cli.app import main; sys.argv = ['modcalc', 'import', sys.argv[1]]\n"
        "try: main()\nexcept SystemExit as stop: assert not stop.code\n"
        "print(sorted({'torch', 'fvcore', 'numpy', 'rich', 'transformers'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, GPT2], capture_output=True, text=True, check=True)
    found = set(json.loads(done.stderr.strip().replace("'", '"')))
    assert not found & {"torch", "fvcore", "numpy", "transformers"}, found

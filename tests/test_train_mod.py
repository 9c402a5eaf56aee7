"""The training experiment: equal budgets, exact resumption, and results that hold what they promise."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from benchmarks.train_mod import __main__ as program
from benchmarks.train_mod.arms import PRESETS, Preset, arms
from benchmarks.train_mod.data import Corpus, standard_library
from benchmarks.train_mod.report import against_random, paired, summary
from benchmarks.train_mod.routing import ABLATIONS, changed
from benchmarks.train_mod.run import Run
from modcalc import build
from modcalc.errors import UsageError

SMOKE = PRESETS["smoke"]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return standard_library()


@pytest.mark.parametrize("preset", PRESETS)
def test_training_flops_are_equal_within_a_step(preset: str) -> None:
    p = PRESETS[preset]
    dense, mod, same_steps, no_predictor, random = arms(p)
    budget = dense.train_flops(p.batch_size, dense.steps)
    for arm in (mod, no_predictor, random):
        assert arm.train_flops(p.batch_size, arm.steps) <= budget < arm.train_flops(p.batch_size, arm.steps + 1)
        assert arm.steps > dense.steps
    assert same_steps.steps == dense.steps
    assert mod.steps <= no_predictor.steps <= random.steps


def test_files_are_held_out_whole(corpus: Corpus) -> None:
    assert corpus.description["held_out_files"] > 10
    assert len(corpus.train) > 10 * len(corpus.held_out) > 100_000
    tokens, targets = corpus.batch(4, 32, seed=1, step=7)
    assert tokens.shape == targets.shape == (4, 32)
    assert torch.equal(tokens[:, 1:], targets[:, :-1])
    assert torch.equal(tokens, corpus.batch(4, 32, seed=1, step=7)[0]) and not torch.equal(tokens, corpus.batch(4, 32, seed=1, step=8)[0])


@pytest.mark.parametrize("name", ["mod", "random"])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(name: str, corpus: Corpus, tmp_path: Path) -> None:
    arm = next(a for a in arms(SMOKE) if a.name == name)
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole = Run(SMOKE, arm, 0, corpus, tmp_path / "a", "cpu")
    list(whole.intervals())

    killed = Run(SMOKE, arm, 0, corpus, tmp_path / "b", "cpu")
    next(killed.intervals())
    killed.train_step()  # work after the last checkpoint is lost, and done again
    resumed = Run(SMOKE, arm, 0, corpus, tmp_path / "b", "cpu")
    assert resumed.step == SMOKE.interval
    list(resumed.intervals())
    assert resumed.points == whole.points
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))


def test_a_predictor_is_no_load_to_the_model(corpus: Corpus, tmp_path: Path) -> None:
    """Behind its stop-gradient it shares nothing with the rest, not the norm by which gradients are clipped either."""
    runs = [Run(SMOKE, arm, 0, corpus, tmp_path, "cpu") for arm in arms(SMOKE) if arm.name in ("mod_same_steps", "mod_no_predictor")]
    for run in runs:
        run.arm = dataclasses.replace(run.arm, steps=SMOKE.steps)  # one schedule of the learning rate
        for _ in range(6):
            run.train_step()
            run.step += 1
    with_it, without = (dict(run.model.named_parameters()) for run in runs)
    assert any("predictor" in name for name in with_it) and all(torch.equal(p, with_it[name]) for name, p in without.items())


def test_results(corpus: Corpus, tmp_path: Path) -> None:
    p = dataclasses.replace(SMOKE, steps=8, held_out_sequences=4)
    for folder in ("work", "out"):
        (tmp_path / folder).mkdir()
    program.experiment(p, 1, corpus, tmp_path / "work", "cpu", tmp_path / "out", {"device": "test"})
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(result["summary"]["arms"]) == {"dense", "mod", "mod_same_steps", "mod_no_predictor", "random"}
    assert (
        result["summary"]["arms"]["dense"]["held_out_loss"]["samples"] == [x["held_out_loss"] for x in result["points"] if x["arm"] == "dense"][-1:]
    )
    for name, gap in result["summary"]["learned_against_random"].items():
        learned, random = (result["summary"]["arms"][arm]["held_out_loss"]["samples"] for arm in (name, "random"))
        assert gap["seeds"] == [0] and gap["samples"] == [learned[0] / random[0] - 1] == [gap["median"]]
        assert gap["interval"] is None, "no interval of one seed"
    first, _, last = result["routing"]
    assert [x["arm"] for x in result["routing"]] == ["mod", "mod_same_steps", "mod_no_predictor"]
    assert set(first["held_out_loss"]) == {"topk", "router", "predictor", *ABLATIONS}
    assert set(last["held_out_loss"]) == {"topk", "router", *ABLATIONS}
    assert all(0 <= a <= 1 for a in first["accuracy"].values())
    assert len(first["left_out_by_block"]) == len(first["router_histogram"]["share_by_block"])
    for shares in first["router_histogram"]["share_by_block"]:
        assert len(shares) == first["router_histogram"]["bins"] and sum(shares) == pytest.approx(1)
    assert (tmp_path / "out" / "loss.svg").read_text().count("</svg>") == 1
    shown = program.table(result["summary"])
    assert "Against dense" in [c.title for c in shown.columns]
    assert sum("seed by seed" in note for note in shown.notes) == 2


def test_results_lose_nothing_while_a_finished_run_is_read_again(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    p = dataclasses.replace(SMOKE, steps=2, interval=1, held_out_sequences=2)
    monkeypatch.setattr(program, "DRAWS", False)
    monkeypatch.setattr(program, "evaluate", lambda run: None)
    held, own = [], program.write

    def write(out: Path, p: Preset, plan: list, points: list[dict], *more: object) -> dict:
        held.append(len(points))
        return own(out, p, plan, points, *more)

    monkeypatch.setattr(program, "write", write)
    for seeds in (1, 1, 2):
        program.experiment(p, seeds, corpus, tmp_path, "cpu", tmp_path, {"device": "test"})
    whole = held[-1] // 2
    assert held == sorted(held) and held.count(whole) > 2 and not (tmp_path / "loss.svg").exists()


def test_what_is_no_checkpoint_is_named(corpus: Corpus, tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04 cut off", b"text"):
        (tmp_path / "dense-0.pt").write_bytes(content)
        with pytest.raises(UsageError, match=r"dense-0.pt: cannot be read .*; if it is damaged, remove it"):
            Run(SMOKE, arms(SMOKE)[0], 0, corpus, tmp_path, "cpu")
    (tmp_path / "experiment.json").write_text("")
    with pytest.raises(UsageError, match=r"experiment.json: not readable"):
        program.claim(tmp_path, SMOKE, corpus, {"device": "a CPU", "torch": "2.13"})
    with pytest.raises(UsageError, match="--out .*dense-0.pt: File exists"):
        program._folder("--out", tmp_path / "dense-0.pt")


def test_learned_against_random_pairs_the_seeds_that_both_have() -> None:
    def arm(losses: dict[int, float]) -> dict:
        return {"seeds": list(losses), "held_out_loss": {"samples": list(losses.values())}}

    mod = {seed: 0.9 + seed / 100 for seed in range(7)}
    arms = {"mod": arm(mod), "random": arm({seed: 1.0 for seed in reversed(range(1, 9))})}
    gap = paired(arms, "mod", "random")
    assert gap["seeds"] == [1, 2, 3, 4, 5, 6]
    assert gap["samples"] == pytest.approx([-0.09, -0.08, -0.07, -0.06, -0.05, -0.04])
    assert gap["median"] == pytest.approx(-0.065) and gap["interval"] == pytest.approx([-0.09, -0.04])
    assert gap["confidence"] == 1 - 2 / 2**6
    assert "-6.50 % (96.9 % interval -9.00 % to -4.00 %)" in against_random("mod", gap)
    assert paired({"mod": arms["mod"]}, "mod", "random") is None


def test_arms_are_compared_over_the_seeds_that_both_have() -> None:
    losses = {"dense": {0: 2.0, 1: 4.0}, "random": {0: 1.0, 1: 3.5, 2: 100.0}}
    steps = {arm.name: arm.steps for arm in arms(SMOKE)}
    points = [dict(arm=name, step=steps[name], seed=seed, held_out_loss=loss) for name, own in losses.items() for seed, loss in own.items()]
    assert summary(SMOKE, arms(SMOKE), points, [])["loss_against_dense"] == {"random": -0.25}


def test_what_is_changed_in_a_trained_model() -> None:
    spec = next(a.spec for a in arms(SMOKE) if a.name == "mod")
    tokens = torch.randint(256, (2, 32), generator=torch.Generator().manual_seed(0))
    model = build(spec, dtype="fp64")
    routers = [block.router.weight for block in model.blocks if block.plan.routing]
    with torch.no_grad():
        routers[0].normal_(std=10.0)
        before = model(tokens).logits
        around, by_chance = (changed(model, tokens, name).logits for name in ("all_around", "random_choice"))
        assert not torch.allclose(by_chance, before) and not torch.allclose(by_chance, around)
        assert torch.equal(model(tokens).logits, before), "a hook was left behind"
        only = [changed(model, tokens, "all_around", block).logits for block in model.blocks]
        assert torch.equal(only[0], before) and torch.equal(only[1], around), "block 1 is the only routed one"
        routers[0].zero_()  # r = 0: x + 0 * f(x)
        assert torch.equal(model(tokens).logits, around)


def test_checkpoints_of_other_settings_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    here = {"device": "a GPU", "torch": "2.13", "threads": 1}
    program.claim(tmp_path, SMOKE, corpus, here)
    program.claim(tmp_path, SMOKE, corpus, here | {"threads": 2})
    for p, machine in ((dataclasses.replace(SMOKE, steps=99), here), (SMOKE, here | {"torch": "2.14"}), (SMOKE, here | {"device": "a CPU"})):
        with pytest.raises(UsageError, match="other settings, another device or torch"):
            program.claim(tmp_path, p, corpus, machine)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
class TestOnAGpu:
    @pytest.mark.parametrize("name", ["dense", "mod"])
    def test_a_captured_run_is_the_plain_one(self, name: str, corpus: Corpus, tmp_path: Path) -> None:
        arm = next(a for a in arms(SMOKE) if a.name == name)
        losses = []
        for capture in (False, True):
            run = Run(SMOKE, arm, 0, corpus, tmp_path, "cuda", capture)
            losses.append([])
            for _ in range(8):
                losses[-1].append(run.train_step().item())
                run.step += 1
            assert (run.graph is not None) == capture
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)

    def test_each_replay_has_the_noise_of_its_step(self, corpus: Corpus, tmp_path: Path) -> None:
        run = Run(SMOKE, next(a for a in arms(SMOKE) if a.name == "random"), 0, corpus, tmp_path, "cuda")
        for _ in range(5):
            run.train_step()
            run.step += 1
        run.optimizer.param_groups[0]["lr"].zero_()
        losses = []
        for seed in (1, 2, 1):
            torch.manual_seed(seed)
            run.graph.replay()
            losses.append(run.loss.item())
        assert losses[0] == pytest.approx(losses[2]) and losses[0] != pytest.approx(losses[1], rel=1e-6)

    def test_a_resumed_run_goes_on(self, corpus: Corpus, tmp_path: Path) -> None:
        arm = next(a for a in arms(SMOKE) if a.name == "mod")
        first = next(Run(SMOKE, arm, 0, corpus, tmp_path, "cuda").intervals())
        rest = list(Run(SMOKE, arm, 0, corpus, tmp_path, "cuda").intervals())
        assert rest[0]["step"] == 2 * first["step"] and rest[-1]["train_loss"] < first["train_loss"]

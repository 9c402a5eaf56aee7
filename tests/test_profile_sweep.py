"""Points, results files, resuming and interrupting."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from modcalc.cost.account import dense_twin
from modcalc.cost.axes import Axis, axis
from modcalc.errors import UsageError
from modcalc.measure.hardware import Peak, describe
from modcalc.measure.records import Failed, Result, Settings
from modcalc.spec.load import loads
from modcalc.spec.schema import Attention, Mlp, Mod, Moe, Positions, Spec

torch = pytest.importorskip("torch")
from modcalc.measure import caveats, results, sweep  # noqa: E402
from modcalc.measure.identity import content_hash  # noqa: E402
from modcalc.measure.jobs import jobs, points  # noqa: E402
from modcalc.measure.point import Job, unlike  # noqa: E402
from modcalc.measure.results import ResultsFile  # noqa: E402
from modcalc.measure.sweep import run  # noqa: E402

CPU = torch.device("cpu")
SPEC = Spec(
    name="tiny", vocab_size=50, seq_len=16, d_model=16, n_layers=2, attention=Attention(n_heads=2), mlp=Mlp(ratio=4.0), mod=Mod(capacity=0.25)
)
SETTINGS = Settings(mode="forward", batch=1, seq_len=0, context=0, dtype="fp32", compile=False, cuda_graph=False, iterations=1, warmup=1)
TEMPLATE = Job(spec=SPEC, baseline=None, settings=SETTINGS, device=CPU)
BATCHES = Axis("batch", (1, 2, 3))


def test_points_are_all_combinations():
    found = points(SETTINGS, [Axis("seq_len", (8, 16)), Axis("batch", (1, 2))])
    assert [(s.seq_len, s.batch) for s in found] == [(8, 1), (8, 2), (16, 1), (16, 2)]
    assert points(SETTINGS, []) == [SETTINGS]


def test_jobs_take_each_specs_own_length_and_twin():
    longer = msgspec.structs.replace(SPEC, name="longer", seq_len=32)
    found = jobs(TEMPLATE, [SPEC, longer], [Axis("batch", (1, 2))], dense=True)
    assert [(j.spec.name, j.settings.seq_len, j.settings.batch) for j in found] == [
        ("tiny", 16, 1),
        ("tiny", 16, 2),
        ("longer", 32, 1),
        ("longer", 32, 2),
    ]
    assert [j.baseline for j in found[::2]] == [dense_twin(SPEC), dense_twin(longer)]
    with pytest.raises(UsageError, match="routes no tokens"):
        jobs(TEMPLATE, [SPEC, msgspec.structs.replace(SPEC, mod=None)], [], dense=True)
    assert jobs(TEMPLATE, [SPEC], [])[0].baseline is None


def with_settings(**over) -> Job:
    return replace(TEMPLATE, settings=msgspec.structs.replace(SETTINGS, **over))


@pytest.mark.parametrize(
    "job, axes, says",
    [
        (with_settings(cuda_graph=True), [], "--cuda-graph: only a GPU has them"),
        (with_settings(context=4), [], "--context with --mode forward"),
        (with_settings(), [Axis("context", (1, 2))], "--context with --mode forward"),
        (with_settings(mode="prefill", context=4), [], "--context with --mode prefill"),
        (with_settings(mode="decode", context=4, compile=True), [], "--mode decode: .*runs eagerly"),
        (with_settings(parallel="ddp", mode="decode"), [], "^--mode decode: not under torchrun, where --mode forward and train are timed"),
        (with_settings(parallel="ddp", mode="prefill", builds=2), [], "^--mode prefill and --builds: not under torchrun"),
        (replace(with_settings(parallel="ddp"), by="component", trace="t.json"), [], "^--trace: not under torchrun"),
    ],
)
def test_settings_that_do_not_go_together(job, axes, says):
    with pytest.raises(UsageError, match=says):
        jobs(job, [SPEC], axes)


@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_experts_that_choose_cannot_sample(mode):
    """Said before anything is measured, not when it is its turn."""
    choosing = msgspec.structs.replace(SPEC, name="choosing", moe=Moe(n_experts=4, choice="expert", capacity=0.5, d_ff=8))
    job = with_settings(mode=mode, context=4 if mode == "decode" else 0)
    with pytest.raises(UsageError, match=f"--mode {mode}: choosing has experts that choose among all tokens .* cannot sample; time --mode forward"):
        jobs(job, [SPEC, choosing], [])
    assert len(jobs(with_settings(), [SPEC, choosing], [])) == 2


def test_a_graph_cannot_be_captured_where_the_host_waits():
    experts = msgspec.structs.replace(SPEC, name="experts", moe=Moe(n_experts=4, top_k=2, d_ff=8))
    captured = replace(with_settings(cuda_graph=True), device=torch.device("cuda", 0))
    with pytest.raises(UsageError, match="--cuda-graph: experts has experts without a buffer"):
        jobs(captured, [experts], [])
    with pytest.raises(UsageError, match="--cuda-graph: experts"):
        jobs(replace(captured, baseline=experts), [SPEC], [])
    assert len(jobs(captured, [msgspec.structs.replace(experts, moe=Moe(n_experts=4, top_k=2, d_ff=8, capacity=1.0))], [])) == 1


def test_what_is_too_long_is_said_before_anything_is_measured():
    learned = msgspec.structs.replace(SPEC, positions=Positions(kind="learned"))
    with pytest.raises(UsageError, match="32 tokens are more than its 16 learned positions"):
        jobs(TEMPLATE, [learned], [Axis("seq_len", (8, 16, 32))])
    with pytest.raises(UsageError, match="tiny: 17 tokens are more than its 16 learned positions"):
        jobs(with_settings(mode="decode", context=16), [learned], [])
    with pytest.raises(UsageError, match="learned positions"):
        jobs(replace(TEMPLATE, baseline=learned), [msgspec.structs.replace(SPEC, seq_len=32)], [])


def test_compiling_needs_a_compiler(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(Exception, match=r"needs a C\+\+ compiler"):
        jobs(with_settings(compile=True), [SPEC], [])
    monkeypatch.setattr("shutil.which", lambda name: name if name == "clang++" else None)
    assert len(jobs(with_settings(compile=True), [SPEC], [])) == 1
    on_gpu = replace(with_settings(compile=True), device=torch.device("cuda", 0))
    for triton in (None, "there"):
        monkeypatch.setattr("modcalc.measure.jobs.find_spec", lambda name, found=triton: found)
        if triton:
            assert len(jobs(on_gpu, [SPEC], [])) == 1
        else:
            with pytest.raises(Exception, match="needs triton"):
                jobs(on_gpu, [SPEC], [])


def test_sharding_on_the_cpu_needs_streams_that_record(monkeypatch):
    monkeypatch.setattr(torch.cpu, "Stream", object)
    with pytest.raises(Exception, match="--parallel fsdp on the CPU: it needs torch 2.7"):
        jobs(with_settings(parallel="fsdp"), [SPEC], [])
    on_gpu = replace(with_settings(parallel="fsdp"), device=torch.device("cuda", 0))
    assert len(jobs(on_gpu, [SPEC], [])) == len(jobs(with_settings(parallel="ddp"), [SPEC], [])) == 1


YAML = "{name: a, vocab_size: 50, seq_len: 16, d_model: 16, n_layers: 2, attention: {n_heads: 2}, mlp: {ratio: 4.0}}"


def test_identity_is_what_a_step_depends_on():
    one = replace(TEMPLATE, spec=loads(YAML))
    same = loads(
        "# a comment\n" + YAML.replace("name: a,", "").replace("}}", "}, name: a, description: words, source: a paper, budget: {params: 9}}")
    )
    assert replace(one, spec=same).key() == one.key()
    others = [
        replace(one, spec=loads(YAML.replace("n_layers: 2", "n_layers: 3"))),
        replace(one, baseline=one.spec),
        *(replace(one, settings=msgspec.structs.replace(SETTINGS, **{name: value})) for name, value in CHANGED.items()),
    ]
    others += [replace(one, world=SimpleNamespace(size=size)) for size in (2, 4)]
    keys = [one.key(), *(other.key() for other in others)]
    assert len(set(keys)) == len(keys)


def test_a_spec_is_known_by_what_it_gives():
    """A key that the schema gains, at its default in every spec that there is, must not part them from their results."""
    given = dict(vocab_size=50, seq_len=16, d_model=8, n_layers=2, attention=dict(n_heads=2), mlp=dict(d_ff=16), mod=dict(capacity=0.5))
    said = dict(given, name="x", norm={}, mod=dict(capacity=0.5, every=2, keys="kept"))
    spec = msgspec.convert(said, Spec)
    assert content_hash(spec) == hashlib.sha256(msgspec.json.encode(given, order="sorted")).hexdigest()


CHANGED = dict(
    mode="train",
    batch=2,
    seq_len=8,
    context=1,
    dtype="bf16",
    compile=True,
    cuda_graph=True,
    causal="half",
    parallel="ddp",
    seconds=1.0,
    iterations=2,
    warmup=2,
    builds=2,
)


def test_every_setting_is_part_of_the_identity():
    assert set(CHANGED) == set(Settings.__struct_fields__)


def measured(path: Path, axes=(BATCHES,)) -> list[tuple[int, bool]]:
    """(batch, measured now) of a sweep into `path`."""
    with ResultsFile(path) as results:
        return [(record.settings.batch, fresh) for record, fresh in run(jobs(TEMPLATE, [SPEC], axes), results)]


def test_a_sweep_goes_on_where_it_was(tmp_path):
    path = tmp_path / "results.jsonl"
    assert measured(path, [Axis("batch", (1, 3))]) == [(1, True), (3, True)]
    first = path.read_bytes()
    assert measured(path) == [(1, False), (2, True), (3, False)]
    assert path.read_bytes().startswith(first)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["status"], line["kind"], line["schema"], line["settings"]["batch"]) for line in lines] == [
        ("ok", "profile", 1, b) for b in (1, 3, 2)
    ]


def test_what_is_known_takes_a_new_peak_and_what_is_doubted_goes(tmp_path):
    one = replace(TEMPLATE, settings=msgspec.structs.replace(SETTINGS, seq_len=16), by="component")
    with ResultsFile(tmp_path / "r.jsonl") as file:
        ((first, new),) = run([one], file)
        assert new and first.mfu is None
        ((again, new),) = run([replace(one, peak=Peak(1e12, None, "told"))], file)
        assert not new and again.mfu == first.flops.step / first.step_time_s.median / 1e12
        ((kept, new),) = run([one], file)
        assert not new and kept == again
        ((more, new),) = run([replace(one, by="layer")], file)
        assert new and file.records[one.key()] == more and {a.by for a in more.attribution} == {"component", "layer"}
        ((anew, new),) = run([replace(one, by=None)], file, again=True)
        assert new and file.records[one.key()].attribution == anew.attribution == []


def test_the_last_peak_given_stays(tmp_path):
    """However the points that know it were measured: the line counts that was written last."""
    both = [
        replace(TEMPLATE, settings=msgspec.structs.replace(SETTINGS, seq_len=16, batch=batch), peak=Peak(1e12, None, "first")) for batch in (1, 2)
    ]
    here = describe(CPU), "fp32", str(torch.__version__)
    with ResultsFile(tmp_path / "r.jsonl") as file:
        list(run(both, file))
        ((corrected, new),) = run([replace(both[0], peak=Peak(2e12, None, "second"))], file)
        assert not new and file.peaks(*here)[0].source == "second"
        told = file.records[both[0].key()]
        assert told.rated and told.rated >= told.time == corrected.time
    again = ResultsFile(tmp_path / "r.jsonl")
    assert again.peaks(*here)[0].source == "second" and list(again.records) == [both[1].key(), both[0].key()]
    for other in (dict(threads=99), dict(cores=99)):
        assert again.peaks(msgspec.structs.replace(describe(CPU), **other), *here[1:]) == (None, None)
    again.records = {told.key: msgspec.structs.replace(told, reached=told.peak)}
    assert [again.peaks(*here[:2], version)[1] for version in (here[2], "1.0")] == [told.peak, None]
    gpu = msgspec.structs.replace(told, device=msgspec.structs.replace(told.device, type="cuda"))
    again.records = {gpu.key: gpu}
    assert again.peaks(msgspec.structs.replace(gpu.device, threads=99), *here[1:])[0].source == "second", "the host's threads are not the GPU's"


def test_results_on_one_line_are_results(tmp_path):
    """What `cat` makes of files whose last line lacks its end."""
    jobs_ = [replace(TEMPLATE, settings=msgspec.structs.replace(SETTINGS, seq_len=16, batch=batch)) for batch in (1, 2)]
    with ResultsFile(tmp_path / "r.jsonl") as file:
        list(run(jobs_, file))
    whole = (tmp_path / "r.jsonl").read_bytes()
    first, second = whole.splitlines()
    keys = [job.key() for job in jobs_]
    for content, held, cut in (
        (first + second, keys, False),
        (first + second[:-9], keys[:1], True),
        (first[:-9] + second, keys[1:], False),  # a kill, and then another file
    ):
        (tmp_path / "joined.jsonl").write_bytes(content)
        found = results.read_results(tmp_path / "joined.jsonl")
        assert (list(found.records), found.lost, found.cut) == (held, 2 - len(held), cut)
    (tmp_path / "unended.jsonl").write_bytes(first)
    with ResultsFile(tmp_path / "unended.jsonl") as file:
        for _ in range(2):
            file.append(file.records[keys[0]])
    assert (tmp_path / "unended.jsonl").read_bytes() == 3 * (first + b"\n")


def test_one_value_of_an_axis_is_one_point_and_may_be_traced() -> None:
    assert len(jobs(replace(TEMPLATE, trace="t.json"), [SPEC], [axis("batch=4")])) == 1


def test_a_breakdown_that_is_kept_keeps_its_doubts(tmp_path, monkeypatch):
    one = replace(TEMPLATE, settings=msgspec.structs.replace(SETTINGS, seq_len=16), by="component")
    monkeypatch.setattr(caveats, "SLOWED", 0.0)
    with ResultsFile(tmp_path / "r.jsonl") as file:
        for by in ("component", "layer"):
            ((record, new),) = run([replace(one, by=by)], file)
        kept = file.records[one.key()]
    assert sorted(w.partition("the time by ")[2].partition(" ")[0] for w in kept.warnings if "under the profiler" in w) == ["component", "layer"]


@pytest.mark.parametrize("again", [False, True])
def test_what_is_known_stands_where_memory_runs_out_later(tmp_path, monkeypatch, again):
    one = replace(TEMPLATE, settings=msgspec.structs.replace(SETTINGS, seq_len=16))
    with ResultsFile(tmp_path / "r.jsonl") as file:
        ((known, _),) = run([one], file)
        before = (tmp_path / "r.jsonl").read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(sweep, "lacking", lambda job: "not enough memory: no room")
            ((record, new),) = run([one if again else replace(one, by="layer")], file, again=again)
    assert new and record == msgspec.structs.replace(known, warnings=[*known.warnings, caveats.ran_out("not enough memory: no room")])
    assert (tmp_path / "r.jsonl").read_bytes() == before


def test_what_stands_is_rated_under_a_peak_given_just_then(tmp_path, monkeypatch):
    one = replace(TEMPLATE, settings=msgspec.structs.replace(SETTINGS, seq_len=16))
    with ResultsFile(tmp_path / "r.jsonl") as file:
        ((known, _),) = run([one], file)
        monkeypatch.setattr(sweep, "lacking", lambda job: "not enough memory: no room")
        ((record, _),) = run([replace(one, peak=Peak(1e12, None, "told"))], file, again=True)
        assert record.mfu == pytest.approx(known.flops.step / known.step_time_s.median / 1e12)
        assert file.records[one.key()].mfu == record.mfu and caveats.ran_out("not enough memory: no room") not in file.records[one.key()].warnings


def test_what_stands_among_many_processes(tmp_path, monkeypatch):
    """They end, for the others may wait; the same command would run into it again."""
    world = SimpleNamespace(rank=0, size=2, from_first=lambda known: known, lost=lambda error: False)
    one = replace(TEMPLATE, settings=msgspec.structs.replace(SETTINGS, seq_len=16))
    with ResultsFile(tmp_path / "r.jsonl") as file:
        ((known, _),) = run([one], file)
        many = replace(one, world=world, by="layer", peak=Peak(1e12, None, "told"))
        file.append(msgspec.structs.replace(known, key=many.key()))
        monkeypatch.setattr(sweep, "lacking", lambda job: "not enough memory: no room")
        with pytest.raises(UsageError, match="rank 0: not enough memory: no room; .*; what was measured before stands, so leave this point out"):
            list(run([many], file))
        assert file.records[many.key()].mfu


def test_a_breakdown_of_other_steps_is_doubted(tmp_path):
    one = replace(TEMPLATE, settings=msgspec.structs.replace(SETTINGS, seq_len=16), by="component")
    with ResultsFile(tmp_path / "r.jsonl") as file:
        ((record, _),) = run([one], file)
    part = record.attribution[0]
    for took, doubted in ((0.85, True), (0.95, False), (1.05, False), (1.2, True)):
        timed = msgspec.structs.replace(record.step_time_s, median=part.unprofiled_s / took)
        said = [doubt for doubt in unlike(msgspec.structs.replace(record, step_time_s=timed), [part]) if "those that were timed" in doubt]
        assert bool(said) == doubted and all(doubt.startswith("tiny: the steps whose time by component is shown took") for doubt in said)
        compiled = msgspec.structs.replace(record, step_time_s=timed, settings=msgspec.structs.replace(record.settings, compile=True))
        assert not any("those that were timed" in doubt for doubt in unlike(compiled, [part]))


def test_a_model_beside_itself_has_another_name(tmp_path):
    (one,) = jobs(replace(TEMPLATE, baseline=msgspec.structs.replace(SPEC, budget=None), by="component"), [SPEC], [])
    assert (one.spec.name, one.baseline.name) == ("tiny", "tiny (as baseline)")
    with ResultsFile(tmp_path / "r.jsonl") as file:
        ((record, _),) = run([one], file)
        assert [a.spec for a in record.attribution] == ["tiny", "tiny (as baseline)"] == [record.spec, record.baseline.spec]
        # As records had it before: the first breakdown is the spec's.
        alike = msgspec.structs.replace(
            record,
            baseline=msgspec.structs.replace(record.baseline, spec="tiny"),
            attribution=[msgspec.structs.replace(a, spec="tiny") for a in record.attribution],
        )
        file.append(alike)
        other = replace(one, baseline=msgspec.structs.replace(one.baseline, name="other"))
        ((found, new),) = run([other], file)
    assert not new and [a.spec for a in found.attribution] == ["tiny", "other"] == [found.spec, found.baseline.spec]


def test_each_point_is_on_disk_before_the_next_begins(tmp_path, monkeypatch):
    path = tmp_path / "results.jsonl"
    seen = []
    own = sweep.measure

    def looking(job, say):
        seen.append(len(path.read_bytes().splitlines()))
        return own(job, say)

    synced = []
    sync = os.fsync
    monkeypatch.setattr(sweep, "measure", looking)
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), sync(fd)))
    measured(path)
    assert seen == [0, 1, 2] and len(synced) == 3


@pytest.mark.parametrize("keep", [1, 9, 60, -40])
def test_a_last_line_that_was_cut_off_is_measured_again(tmp_path, keep):
    path = tmp_path / "results.jsonl"
    measured(path, [Axis("batch", (1, 2))])
    one, two = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(one + two[:keep])
    results = ResultsFile(path)
    assert results.cut and len(results.records) == 1
    assert path.read_bytes() == one + two[:keep]
    assert measured(path) == [(1, False), (2, True), (3, True)]
    assert path.read_bytes().startswith(one + two[:keep] + b"\n")  # nothing was overwritten
    assert measured(path) == [(1, False), (2, False), (3, False)]


def test_a_last_line_without_its_end_is_a_line(tmp_path):
    path = tmp_path / "results.jsonl"
    measured(path, [Axis("batch", (1,))])
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert measured(path, [Axis("batch", (1, 2))]) == [(1, False), (2, True)]
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"a,b\n1,2\n",
        b'{"a": 1}\n',
        b"[1, 2]\n",
        b"\x00\xff\xfe",
        b'{"status":"ok","spec":1}\n',
        b"{",
        b'{"status": "ok"}',
        b'{"status":"well","kind":"profile"}\n',
    ],
)
def test_a_file_that_is_not_ours_is_not_touched(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    if content == b"{":  # could be a record of ours, cut off after its first character
        assert ResultsFile(path).cut
        return
    with pytest.raises(UsageError, match=r"notes.txt:1: not a result of modcalc profile .*nothing was changed, choose another --out"):
        ResultsFile(path)
    assert path.read_bytes() == content


def test_a_foreign_line_after_ours_is_found(tmp_path):
    path = tmp_path / "results.jsonl"
    measured(path, [Axis("batch", (1,))])
    with path.open("ab") as file:
        file.write(b'{"loss": 3}\n')
    with pytest.raises(UsageError, match="results.jsonl:2: not a result"):
        ResultsFile(path)


def test_paths_that_cannot_be_files(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        ResultsFile(tmp_path)
    with pytest.raises(UsageError, match="which takes a file"):
        ResultsFile("-")
    with pytest.raises(UsageError, match="cannot be written"), ResultsFile(tmp_path / "no" / "folder.jsonl"):
        pass


def test_a_file_is_of_one_process_at_a_time(tmp_path, monkeypatch):
    pytest.importorskip("fcntl")
    path = tmp_path / "r.jsonl"
    with ResultsFile(path):
        with pytest.raises(UsageError, match="another modcalc profile writes it"), ResultsFile(path):
            pass
        monkeypatch.setattr(results, "fcntl", None)
        with ResultsFile(path):
            pass
    monkeypatch.undo()
    measured(path)
    early = ResultsFile(path)
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    with early:
        assert len(early.records) == 1, "as it is once it is this process's"

    def not_here(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(results.fcntl, "flock", not_here)
    with ResultsFile(path):
        pass


def test_out_of_memory_is_a_row_and_not_an_end(tmp_path, monkeypatch):
    own = sweep.measure

    def full(job, say):
        if job.settings.batch == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return own(job, say)

    monkeypatch.setattr(sweep, "measure", full)
    path = tmp_path / "results.jsonl"
    with ResultsFile(path) as results:
        kinds = [type(record) for record, _ in run(jobs(TEMPLATE, [SPEC], [BATCHES]), results)]
    assert kinds == [Result, Failed, Result]
    assert measured(path) == [(1, False), (2, False), (3, False)]


def test_what_a_point_held_is_gone_before_memory_is_given_back(monkeypatch):
    """The next point is judged by what is free then."""
    held, alive = [], []

    def full(job, say):
        weights = torch.zeros(8)
        held.append(weakref.ref(weights))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sweep, "measure", full)
    monkeypatch.setattr(sweep, "give_back", lambda: alive.append(held[-1]() is not None))
    (job,) = jobs(TEMPLATE, [SPEC], [Axis("batch", (1,))])
    assert isinstance(sweep.measured_or_failed(job), Failed) and alive == [False]


def test_interrupted_while_the_disk_writes(tmp_path, monkeypatch):
    """What the file will hold counts as measured."""
    path = tmp_path / "results.jsonl"

    def slow(fd):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", slow)
    with pytest.raises(KeyboardInterrupt), ResultsFile(path) as results:
        for _ in run(jobs(TEMPLATE, [SPEC], [BATCHES]), results):
            pass
    assert len(results.records) == 1 and ResultsFile(path).records == results.records


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_what_was_measured_is_kept(tmp_path, stop):
    """A sweep of endless points, stopped in the middle of one."""
    spec, path = tmp_path / "tiny.yaml", tmp_path / "results.jsonl"
    spec.write_text(YAML)
    code = "import sys; from modcalc.cli.app import main; main()"
    batches = ",".join(str(b) for b in range(1, 400))
    words = ["profile", str(spec), "--sweep", f"batch={batches}", "--seconds", "0.2", "--warmup", "1", "--out", str(path), "--device", "cpu"]
    child = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while time.monotonic() < end and not (path.exists() and path.read_bytes().count(b"\n") >= 2):
        time.sleep(0.05)
    child.send_signal(stop)
    out, err = child.communicate(timeout=60)
    kept = ResultsFile(path)
    assert len(kept.records) >= 2
    assert [r.settings.batch for r in kept.records.values()] == list(range(1, len(kept.records) + 1))
    if stop == signal.SIGINT:
        assert child.returncode == 130 and f"interrupted: {len(kept.records)} of 399 points were measured" in err
        assert out.startswith("Measured step times") and out.count("\na  ") == len(kept.records)

"""How long a count takes: the whole command, the account alone, and a counter on a model of 405B parameters.

    python -m benchmarks.startup [--repeat 30] [--out benchmarks/results/startup.json]

Three measurements, each with its limit; exit code 1 if one is missed:
- `modcalc flops mod-220m --count analytic`, the whole process, over `python -c "import typer, yaml"`: both run in turn,
  the ratio is that of the medians. What every command of this kind pays cannot be made faster here, so it is the unit.
  Both find their bytecode compiled, as an installed program does, whatever this environment says about writing it.
- `account()` of a decoder with 126 layers, dense and every other block routed, in a process that is warm.
- fvcore's count of a dense decoder of that shape (Llama 3.1 405B, arXiv 2407.21783, table 3) on the meta device: building
  and counting in seconds (imports apart), and the largest resident memory of its process.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

RATIO, ACCOUNT_S, COUNT_S, COUNT_BYTES = 2.5, 1e-3, 10.0, 2 * 10**9

SPEC = """
name: llama-3.1-405b
vocab_size: 128256
seq_len: 8192
d_model: 16384
n_layers: 126
attention: {n_heads: 128, n_kv_heads: 8}
mlp: {kind: gated, activation: silu, d_ff: 53248}
positions: {kind: rotary, theta: 500000.0}
"""
BASE = "import typer, yaml"
COMMAND = "import sys; sys.argv[1:] = ['flops', 'mod-220m', '--count', 'analytic']; from modcalc.cli.app import main; main()"
COUNT = """
import json, resource, sys, time
start = time.perf_counter()
import fvcore.nn, torch
from modcalc import account, build
from modcalc.measure.counters import count
from modcalc.spec.load import loads
imported = time.perf_counter()
spec = loads(sys.stdin.read())
counted = count(build(spec, device="meta"), (1, spec.seq_len), "fvcore")
done = time.perf_counter()
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps({
    "import_s": imported - start, "count_s": done - imported, "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    "flops": counted.total_flops, "agree": counted.by_path == account(spec).by_path(),
}))
"""


def process_s(code: str, cache: str) -> float:
    """Wall time of `python -c code`, which must succeed. cache: the folder of its bytecode."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {"PYTHONPYCACHEPREFIX": cache}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return time.perf_counter() - start


def startup(repeat: int) -> dict:
    """Both processes in turn, after one of each that fills the caches."""
    with tempfile.TemporaryDirectory() as cache:
        samples = [(process_s(BASE, cache), process_s(COMMAND, cache)) for _ in range(repeat + 1)][1:]
    base, command = (list(column) for column in zip(*samples, strict=True))
    ratio = statistics.median(command) / statistics.median(base)
    return {"base_s": base, "command_s": command, "ratio": ratio, "limit": RATIO, "ok": ratio <= RATIO}


def in_process(repeat: int) -> dict:
    """Median of account() over `repeat` calls, dense and routed."""
    import msgspec

    from modcalc import account
    from modcalc.spec.load import loads
    from modcalc.spec.schema import Mod

    dense = loads(SPEC)
    medians = {}
    for name, spec in (("dense", dense), ("mod", msgspec.structs.replace(dense, mod=Mod()))):
        account(spec)
        times = []
        for _ in range(repeat):
            start = time.perf_counter()
            account(spec)
            times.append(time.perf_counter() - start)
        medians[name] = statistics.median(times)
    return {"median_s": medians, "calls": repeat, "limit_s": ACCOUNT_S, "ok": max(medians.values()) <= ACCOUNT_S}


def large_count() -> dict:
    """fvcore in a process of its own, so that the peak is its own."""
    done = subprocess.run([sys.executable, "-c", COUNT], input=SPEC, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    ok = found["count_s"] < COUNT_S and found["peak_memory_bytes"] < COUNT_BYTES and found["agree"]
    return {**found, "limit_s": COUNT_S, "limit_bytes": COUNT_BYTES, "ok": ok}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=30, help="processes of each kind; ten times as many calls of account()")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "startup.json")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)

    from modcalc.measure.hardware import cpu_name

    document = {
        "schema": 1,
        "date": time.strftime("%Y-%m-%d"),
        "machine": cpu_name(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("modcalc", "typer", "pyyaml", "msgspec", "torch", "fvcore")},
        "startup": startup(options.repeat),
        "account": in_process(10 * options.repeat),
        "count": large_count(),
    }
    options.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"flops over import typer, yaml: {document['startup']['ratio']:.2f} x (limit {RATIO})")
    print(f"account() of 126 layers: {', '.join(f'{n} {1000 * s:.2f} ms' for n, s in document['account']['median_s'].items())} (limit 1 ms)")
    large = document["count"]
    print(f"fvcore on 405B: {large['count_s']:.1f} s, {large['peak_memory_bytes'] / 1e9:.2f} GB (limits {COUNT_S:.0f} s, {COUNT_BYTES / 1e9:.0f} GB)")
    print(f"written to {options.out}")
    sys.exit(0 if all(document[part]["ok"] for part in ("startup", "account", "count")) else 1)


if __name__ == "__main__":
    main()

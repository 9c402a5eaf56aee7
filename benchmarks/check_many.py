"""Time of `modcalc check` on 100 specs over its time on one.

    python -m benchmarks.check_many [--repeat 10] [--out benchmarks/results/check_many.json]

Whole processes, in turn, medians; exit code 1 if the ratio is above its limit of 3. Every spec has another shape and a
budget of five rules, one of them relative to a shipped spec, and all rules hold.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT, SPECS = 3.0, 100
SPEC = """
name: spec-{i}
vocab_size: 32000
seq_len: 2048
d_model: {width}
n_layers: {layers}
attention: {{n_heads: {heads}}}
mlp: {{d_ff: {d_ff}}}
mod: {{capacity: 0.125, every: 2}}
budget:
  params: 1T
  active_params: 1T
  forward_flops: {{min: 1e6, max: 1e18}}
  kv_cache_bytes: {{max: 100, relative_to: dense-220m}}
"""


def check_s(path: Path) -> float:
    """Wall time of one `modcalc check`, which must succeed."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "modcalc.cli.app", "check", str(path)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "check_many.json")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)

    from modcalc.measure.hardware import cpu_name

    with tempfile.TemporaryDirectory() as folder:
        for i in range(SPECS):
            width = 64 * (4 + i % 20)
            text = SPEC.format(i=i, width=width, layers=4 + i, heads=width // 64, d_ff=4 * width)
            (Path(folder) / f"spec-{i:03}.yaml").write_text(text)
        one = Path(folder) / "spec-000.yaml"
        samples = [(check_s(one), check_s(Path(folder))) for _ in range(options.repeat + 1)][1:]
    ones, all_of_them = (list(column) for column in zip(*samples, strict=True))
    ratio = statistics.median(all_of_them) / statistics.median(ones)
    document = {
        "schema": 1,
        "date": time.strftime("%Y-%m-%d"),
        "machine": cpu_name(),
        "python": platform.python_version(),
        "specs": SPECS,
        "one_s": ones,
        "all_s": all_of_them,
        "ratio": ratio,
        "limit": LIMIT,
        "ok": ratio <= LIMIT,
    }
    options.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"check of {SPECS} specs over one: {ratio:.2f} x (limit {LIMIT:g}); written to {options.out}")
    sys.exit(0 if document["ok"] else 1)


if __name__ == "__main__":
    main()

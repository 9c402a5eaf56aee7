"""How many shapes a second the search bills, and in how much memory.

    python benchmarks/search_speed.py [--candidates 10000000] [--repeat 5] [--out FILE]

Whole searches are timed on one core (BLAS is held to one thread): every combination of five free knobs of a
Mixture-of-Depths family gets forward FLOPs and parameters, and the best 20 within bounds are selected and billed again by
exact integers. Candidates a second = combinations looked at / wall time of all that. Prints one JSON document.
"""

import argparse
import os
import platform
import resource
import statistics
import sys
import time
from fractions import Fraction
from math import prod

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before numpy is imported

TARGET_PER_S, TARGET_BYTES = 10_000_000, 10**9


def five_knobs(n: int) -> dict[str, list]:
    """About n combinations of depth, width, inner width, capacity and frequency."""
    axes = {
        "n_layers": list(range(4, 44)),
        "capacity": [x / 16 for x in range(1, 16)],
        "every": [1, 2, 3, 4],
        "d_model": [64 * x for x in range(4, 44)],
    }
    axes["d_ff"] = [64 * x for x in range(16, 16 + max(1, round(n / prod(map(len, axes.values())))))]
    return {k: axes[k] for k in ("n_layers", "d_model", "d_ff", "capacity", "every")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=10_000_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out")
    options = parser.parse_args()

    import json
    from importlib.metadata import version

    from modcalc import load
    from modcalc.cost.account import account, dense_twin
    from modcalc.cost.conventions import find_convention
    from modcalc.measure.hardware import cpu_name
    from modcalc.search.costs import Basis
    from modcalc.search.family import Family
    from modcalc.search.isoflop import match
    from modcalc.search.rules import Rules

    spec = load("mod-220m")
    family, basis = Family(spec), Basis(spec.seq_len, 1, 0, find_convention())
    axes = five_knobs(options.candidates)
    target = account(dense_twin(spec)).flops.forward
    # Bounds on parameters make the search compute both costs of every candidate.
    rules = Rules(params=(Fraction(10**6), Fraction(10**12)))
    times, looked, best = [], 0, None
    for _ in range(options.repeat):
        start = time.perf_counter()
        found = match(family, axes, target, "forward", basis, rules, within=Fraction(1, 1000), limit=20)
        times.append(time.perf_counter() - start)
        looked, best = found.tally.looked, found.candidates[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    per_s = [looked / t for t in times]
    document = {
        "modcalc": version("modcalc"),
        "numpy": version("numpy"),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": cpu_name(),
        "candidates": looked,
        "axes": {k: len(v) for k, v in axes.items()},
        "seconds": times,
        "candidates_per_s": {"median": statistics.median(per_s), "min": min(per_s), "max": max(per_s), "at_least": TARGET_PER_S},
        "peak_memory_bytes": {"value": peak, "below": TARGET_BYTES},
        "best": {"spec": best.spec.name, "forward_flops": best.forward, "params": best.params.total, "relative_error": float(best.error)},
        "ok": statistics.median(per_s) >= TARGET_PER_S and peak < TARGET_BYTES,
    }
    text = json.dumps(document, indent=2)
    print(text)
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    sys.exit(0 if document["ok"] else 1)


if __name__ == "__main__":
    main()

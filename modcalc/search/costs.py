"""What one shape costs, by name. The same sums serve a Plan of ints (exact) and a Plan of arrays (a lattice)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from modcalc.cost.account import count_flops, count_params
from modcalc.cost.convention import Convention
from modcalc.cost.ledger import ledger
from modcalc.cost.memory import kv_cache_bytes
from modcalc.cost.ops import Op, whole
from modcalc.cost.workload import Workload
from modcalc.spec.plan import Dim, Plan
from modcalc.spec.resolve import resolve
from modcalc.spec.schema import Spec

# name -> what it is, for one sequence of T tokens
COSTS = {
    "forward": "forward FLOPs of one sequence",
    "train": "training FLOPs (forward and backward) of one sequence",
    "params": "parameters",
    "active": "parameters that one token uses on average",
    "non_embedding": "parameters outside the vocabulary's and positions' tables",
    "kv": "bytes of one sequence's KV cache in bf16",
    "decode": "FLOPs of one new token after the context",
}


@dataclass(frozen=True)
class Basis:
    """How shapes are billed: T tokens a sequence, B sequences a step, S cached tokens at decode, and whose rules count."""

    seq_len: int
    batch: int
    context: int
    convention: Convention

    def work(self, phase: str) -> Workload:
        """One sequence, or at decode one token of it."""
        return Workload(1, 1, self.context, phase) if phase == "decode" else Workload(1, self.seq_len, 0, phase)


def cost(spec: Spec, name: str, basis: Basis) -> Dim:
    """The cost `name` of one spec, exact."""
    return whole(bill(resolve(spec, basis.seq_len), (name,), basis)[name])


def bill(plan: Plan, names: Iterable[str], basis: Basis, rows: Callable[[Op], bool] = lambda op: True) -> dict[str, Dim]:
    """The costs `names` of those rows of `plan` that `rows` lets pass (the KV cache has no rows: it is the whole plan's)."""
    found: dict[str, Dim] = {}
    billed: dict[str, tuple[Op, ...]] = {}
    for name in names:
        if name == "kv":
            found[name] = kv_cache_bytes(plan, basis.seq_len)
            continue
        phase = "decode" if name == "decode" else "forward"  # the rows of a train step are those of its forward pass
        if phase not in billed:
            billed[phase] = tuple(op for op in ledger(plan, basis.work(phase)) if rows(op))
        ops = billed[phase]
        if name in ("params", "active", "non_embedding"):
            found[name] = count_params(ops).of(name)
        else:
            flops = count_flops(ops, basis.work(phase), basis.convention)
            found[name] = flops.train_step if name == "train" else flops.forward
    return found

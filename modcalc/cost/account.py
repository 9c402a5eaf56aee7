"""Rows, grouped and summed: what a report says, apart from how it looks."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from modcalc.cost.convention import EMBEDDINGS, Convention
from modcalc.cost.conventions import find_convention
from modcalc.cost.ledger import ledger
from modcalc.cost.ops import Op, ratio, whole
from modcalc.cost.workload import SAMPLING, Workload
from modcalc.errors import UsageError
from modcalc.spec.plan import Dim, Plan
from modcalc.spec.resolve import by_layer, demand_spec, expert_layers, resolve
from modcalc.spec.schema import Spec

LEVELS = ("total", "component", "layer", "path")


class Params(Struct, frozen=True):
    """Parameters. active: used by one token on average (experts and routed blocks count by share).

    embedding: token and position tables, and what a head has of its own (an untied matrix, a bias); non_embedding: all others.
    """

    total: Dim
    active: Dim
    embedding: Dim
    non_embedding: Dim

    def of(self, count: str) -> Dim:
        """Those of `count`: params (all), active, embedding or non_embedding."""
        return self.total if count == "params" else getattr(self, count)


class Flops(Struct, frozen=True):
    """FLOPs of the whole workload (all sequences); train_step = forward + backward. At sampling too, where nothing runs backward, backward is
    what a pass through the same rows would take.
    """

    forward: Dim
    backward: Dim
    train_step: Dim
    forward_per_token: Dim

    def of(self, backward: bool) -> Dim:
        """Those of a train step, or of a forward pass."""
        return self.train_step if backward else self.forward


class Line(Struct, frozen=True):
    """A sum over rows under one label."""

    label: str
    params: Dim
    forward: Dim
    backward: Dim

    def flops(self, backward: bool) -> Dim:
        """Its part of a train step, or of a forward pass."""
        return self.forward + self.backward if backward else self.forward


class Report(Struct, frozen=True):
    """An account of one plan under one workload and convention."""

    plan: Plan
    work: Workload
    convention: Convention
    rows: tuple[Op, ...]
    params: Params
    flops: Flops

    def lines(self, by: str = "component") -> list[Line]:
        """Sums by total, component, layer or path, in the order of the model. Raises UsageError for anything else."""
        sums: dict[str, list[Dim]] = {}
        for label, op, share in self.labelled(by):
            line = sums.setdefault(label, [0, 0, 0])
            for i, value in enumerate((op.params, self.convention.forward(op), self.convention.backward(op))):
                line[i] += value * share
        return [Line(label, *(whole(v) for v in values)) for label, values in sums.items()]

    def by_path(self, backward: bool = False) -> dict[str, Dim]:
        """Module path -> FLOPs of its own rows, forward or forward + backward, those of no FLOPs left out."""
        return {line.label: flops for line in self.lines("path") if (flops := line.flops(backward))}

    def weights(self) -> dict[str, tuple[Dim, ...]]:
        """Parameter path -> shape."""
        return {f"{path}.{name}": shape for op in self.rows for path in op.paths() for name, shape in op.weights.items()}

    def labelled(self, by: str) -> Iterator[tuple[str, Op, Fraction | int]]:
        """(label, row, the share of the row that lies there). Raises UsageError where `by` is no level."""
        if by not in LEVELS:
            raise UsageError(f"by {by!r}: one of {', '.join(LEVELS)}")
        for op in self.rows:
            if by == "total":
                yield "total", op, 1
            elif by == "component":
                yield op.component, op, 1
            else:
                for path in op.paths():
                    yield path if by == "path" else layer(path), op, Fraction(1, op.repeat)


def layer(path: str) -> str:
    """The block or recursion that a module path lies in (`blocks.3`); the path itself outside of them."""
    return ".".join(path.split(".")[:2]) if path.startswith(("blocks.", "recursions.")) else path


def account(
    spec: Spec | Plan,
    *,
    seq_len: int | None = None,
    batch: int = 1,
    phase: str = "forward",
    context: int | None = None,
    routing: str = "expected",
    convention: str | Convention = "matmul",
    causal: str | None = None,
) -> Report:
    """Bill a spec, or a plan made from one.

    seq_len: T, tokens of each sequence (default: the spec's; 1 in phase decode). batch: B sequences. phase: forward,
    train, prefill or decode; context: tokens already cached, for prefill (default: 0) and decode (required). routing: expected, all or none,
    for routed blocks at sampling; expected is C / T at the spec's own T. convention: a name (see `modcalc.cost.conventions.CONVENTIONS`)
    or a Convention; causal: full, window, half or exact overrides its rule.

    A Spec changed in Python is taken as it is: see `check_spec`. Returns a Report; its FLOPs are those of all B sequences.
    Raises UsageError where the numbers make no workload.
    """
    plan, work = plan_and_work(spec, seq_len, batch, context, phase, routing)
    counted_by = find_convention(convention, causal)
    rows = tuple(ledger(plan, work))
    return Report(plan, work, counted_by, rows, count_params(rows), count_flops(rows, work, counted_by))


def plan_and_work(
    spec: Spec | Plan, seq_len: int | None, batch: int, context: int | None, phase: str, routing: str = "expected"
) -> tuple[Plan, Workload]:
    """The plan that a workload runs, and the workload; arguments as of `account`."""
    if context is None and phase == "decode":
        raise UsageError("phase decode: say how many tokens are already cached with context=S")
    # A token that decides by itself passes at the share of whole sequences, however short its prompt is.
    plan = spec if isinstance(spec, Plan) else resolve(spec, None if phase in SAMPLING else seq_len)
    new = seq_len if seq_len is not None else 1 if phase == "decode" else plan.seq_len
    return plan, Workload(batch, new, 0 if context is None else context, phase, routing)


def count_params(rows: tuple[Op, ...]) -> Params:
    """Parameters of these rows, each matrix once, however often it is used."""
    total = sum(op.params for op in rows)
    embedding = sum(op.params for op in rows if op.path in EMBEDDINGS)
    return Params(total, whole(sum(op.active_params for op in rows)), embedding, total - embedding)


def count_flops(rows: tuple[Op, ...], work: Workload, convention: Convention) -> Flops:
    """FLOPs of these rows for all sequences of `work`, as `convention` counts."""
    forward = whole(sum(convention.forward(op) for op in rows))
    backward = whole(sum(convention.backward(op) for op in rows))
    return Flops(forward, backward, forward + backward, whole(ratio(forward, work.tokens)))


def dense_twin(spec: Spec) -> Spec:
    """The same shape without routing; recursions become as many blocks with weights of their own. Raises UsageError for what is no Spec."""
    demand_spec(spec)
    if spec.mod is None:
        return spec
    unrolled = _unrolled(spec) if spec.mod.recursions else {}
    return replace(spec, name=f"{spec.name} (dense twin)", mod=None, budget=None, **unrolled)


def _unrolled(spec: Spec) -> dict[str, Any]:
    """The fields of a recursive spec that differ where its shared blocks stand once for each recursion: patterns over the layers go with them."""
    order = resolve(spec).passes
    patterns, experts = by_layer(spec), set(expert_layers(spec))
    fields: dict[str, Any] = {"n_layers": len(order)}
    if isinstance(spec.attention.window, list):
        fields["attention"] = replace(spec.attention, window=[patterns[i][0] for i in order])
    if spec.positions.rotated:
        fields["positions"] = replace(spec.positions, rotated=[patterns[i][1] for i in order])
    if spec.moe:
        fields["moe"] = replace(spec.moe, every=1, offset=None, layers=[n for n, i in enumerate(order) if i in experts])
    return fields

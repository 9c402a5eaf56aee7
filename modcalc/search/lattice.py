"""Every combination of the knobs, billed by the ledger over numpy arrays, one chunk that fits the cache at a time.

A model is its frame (embedding, head) and a number of equal blocks of each kind. Depth and frequency of routing only
change those numbers; widths and capacity only change what one block costs. So the ledger bills one block of each kind for
all widths at once, and a cost of the whole lattice is the matrix product counts x block costs:

    [rows: (n_layers, every)] x [kinds] @ [kinds] x [columns: (d_model, d_ff, capacity)]

float64 holds integers below 2^53 exactly; above it the relative error is about 1e-16 a term.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

import numpy as np
from msgspec import structs

from modcalc.errors import UsageError
from modcalc.search.costs import Basis, bill
from modcalc.search.family import KNOBS, Family, Shape
from modcalc.spec.plan import BlockPlan, Dim, Group, MoePlan, Plan
from modcalc.spec.resolve import block_plan, frame, heads, resolve, tokens_kept
from modcalc.spec.validate import find_problems

CHUNK = 1 << 15  # candidates billed at once: a few arrays of 256 KiB
COLUMNS = 1 << 13
MAX_COUNTS = 10**6  # entries of the matrix of counts, and of one cost of the columns
MAX_CANDIDATES = 10**15


@dataclass(frozen=True)
class Chunk:
    """A block of the lattice, [r, m]: r combinations of (n_layers, every), m of (d_model, d_ff, capacity).

    index is row + column; it counts the whole lattice in the order of the knobs, the last fastest.
    """

    row: np.ndarray  # [r, 1] int64
    column: np.ndarray  # [1, m] int64
    n_layers: np.ndarray  # [r, 1]
    d_model: np.ndarray  # [1, m]
    d_ff: np.ndarray  # [1, m]
    costs: dict[str, np.ndarray]  # name -> [r, m] float64

    @property
    def size(self) -> int:
        return self.row.size * self.column.size


class Lattice:
    """axes: values of the free knobs; the others stay as the family's spec has them. names: costs to compute (see COSTS).

    `excluded` counts the combinations that are no model, by rule: d_model without whole heads; what breaks a rule of every
    spec, such as a depth at which no block is routed (`problem` says the first). Raises UsageError where the family lacks a
    knob, or the lattice is too large to be counted.
    """

    def __init__(self, family: Family, axes: dict[str, list], basis: Basis, names: tuple[str, ...]) -> None:
        family.demand(axes)
        own = family.own
        self.family, self.basis, self.names = family, basis, names
        self.axes: dict[str, list] = {k: list(axes[k]) if k in axes else [getattr(own, k)] for k in KNOBS}
        self.size = prod(map(len, self.axes.values()))
        if self.size > MAX_CANDIDATES:
            raise UsageError(f"{self.size:.1e} candidates: at most {MAX_CANDIDATES:.0e} can be searched; take fewer knobs or larger steps")
        steps = [prod(len(self.axes[k]) for k in KNOBS[i + 1 :]) for i in range(len(KNOBS))]
        self.stride = dict(zip(KNOBS, steps, strict=True))
        self.excluded: dict[str, int] = {}
        self.problem = ""  # what the first spec that was excluded breaks
        self._frames: dict[int, list[float]] = {}

    def shape(self, index: int) -> Shape:
        """The combination at `index`."""
        return Shape(*(self.axes[k][index // self.stride[k] % len(self.axes[k])] for k in KNOBS))

    @cached_property
    def _widths(self) -> list[tuple[int, int, tuple]]:
        """(position on the axis, d_model, Widths) of every d_model that makes a model."""
        good, each = [], self.size // len(self.axes["d_model"])
        for i, D in enumerate(self.axes["d_model"]):
            widths = self.family.widths(D)
            if widths is None:
                self._exclude("heads", each)
            elif self._sound(self.family.own._replace(d_model=D), each):
                good.append((i, D, widths))
        return good

    @property
    def _stand_in(self) -> Shape:
        """A shape that makes a model, where only other knobs are asked about. The spec's own width may have no whole heads of --head-dim."""
        return self.family.own._replace(d_model=self._widths[0][1])

    @cached_property
    def _kept(self) -> list[tuple[int, float | int | None]]:
        """(position on the axis, capacity) of every capacity that the spec may have (no more tokens than T)."""
        values, each = self.axes["capacity"], self.size // len(self.axes["capacity"])
        return [(i, c) for i, c in enumerate(values) if c is None or self._sound(self._stand_in._replace(capacity=c), each)]

    @cached_property
    def _kinds(self) -> tuple[list[tuple[int, int]], list[tuple[BlockPlan | Plan, list[int]]]]:
        """(rows: position of n_layers, of every), (kinds: what is billed once, how often it stands in each row)."""
        rows: list[tuple[int, int]] = []
        kinds: dict[tuple, tuple[BlockPlan | Plan, dict[int, int]]] = {}
        own = self._kept[0][1]
        for (i, depth), (j, every) in product(enumerate(self.axes["n_layers"]), enumerate(self.axes["every"])):
            shape = self._stand_in._replace(n_layers=depth, every=every, capacity=own)
            if not self._sound(shape, self.size // (len(self.axes["n_layers"]) * len(self.axes["every"]))):
                continue
            plan = resolve(self.family.apply(shape), self.basis.seq_len)
            if plan.recursion:
                kinds["recursion", len(rows)] = (plan, {len(rows): 1})
            for g in plan.groups if not plan.recursion else ():
                r = g.block.routing
                # Whether a layer is rotated changes no cost that a search knows, but for the norms that only rotated ones may have.
                key = (g.block.attention.window, g.block.attention.q_norm is None, isinstance(g.block.ffn, MoePlan), r and r.capacity)
                counts = kinds.setdefault(key, (g.block, {}))[1]
                counts[len(rows)] = counts.get(len(rows), 0) + g.count
            rows.append((i, j))
        return rows, [(part, [count.get(r, 0) for r in range(len(rows))]) for part, count in kinds.values()]

    def _sound(self, shape: Shape, stands_for: int) -> bool:
        """Whether a shape's spec keeps the rules of every spec (a block that is routed, …); if not, so many are excluded."""
        problems = find_problems(self.family.apply(shape))
        if problems:
            self._exclude("valid spec", stands_for)
            self.problem = self.problem or f"n_layers {shape.n_layers}, d_model {shape.d_model}: {problems[0]}"
        return not problems

    def _exclude(self, rule: str, n: int) -> None:
        if n:
            self.excluded[rule] = self.excluded.get(rule, 0) + n

    def chunks(self) -> Iterator[Chunk]:
        """The lattice in chunks, without what `excluded` counts."""
        spec, widths, inner = self.family.spec, self._widths, self.axes["d_ff"]
        kept = self._kept if widths else []
        rows, kinds = self._kinds if kept else ([], [])
        if not rows:
            return
        counts = np.array([[1] * len(rows)] + [count for _, count in kinds], float).T
        depth = np.array([[self.axes["n_layers"][i]] for i, _ in rows], float)
        place = np.array([[i * self.stride["n_layers"] + j * self.stride["every"]] for i, j in rows], np.int64)
        if counts.size > MAX_COUNTS:
            raise UsageError(f"{len(rows):,} depths with {len(kinds):,} kinds of blocks: too many to search; take larger steps")
        most = min(COLUMNS if len(rows) > CHUNK // COLUMNS else CHUNK // len(rows), max(1, MAX_COUNTS // (1 + len(kinds))))
        take_c = min(len(kept), most)
        take_f = min(len(inner), max(1, most // take_c))
        take_d = min(len(widths), max(1, most // (take_c * take_f)))
        if spec.attention.qk_norm and spec.attention.qk_norm.scope == "per_head":
            take_d = 1  # whether heads have norms of their own depends on whether there is more than one: a question to ints
        for d, f, c in product(range(0, len(widths), take_d), range(0, len(inner), take_f), range(0, len(kept), take_c)):
            column, D, F, costs = self._columns([part for part, _ in kinds], slice(d, d + take_d), slice(f, f + take_f), slice(c, c + take_c))
            take_r = max(1, CHUNK // column.size)
            for r in range(0, len(rows), take_r):
                s = slice(r, r + take_r)
                yield Chunk(place[s], column, depth[s], D, F, {name: counts[s] @ cost for name, cost in costs.items()})

    def _columns(self, parts: list, d: slice, f: slice, c: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """(index, d_model, d_ff, costs of the frame and of one block of each kind [1 + kinds, m]) of a box of columns."""
        spec, T = self.family.spec, self.basis.seq_len
        widths, inner, kept = self._widths[d], self.axes["d_ff"][f], self._kept[c]
        box = (len(widths), len(inner), len(kept))

        def along(axis: int, values: Sequence, kind: type = float) -> np.ndarray:
            return np.array(values, kind).reshape([-1 if i == axis else 1 for i in range(3)])

        def dim(axis: int, values: Sequence) -> Dim:
            return values[0] if len(values) == 1 else along(axis, values)

        D, H, K = (dim(0, v) for v in ([w[1] for w in widths], [w[2].n_heads for w in widths], [w[2].n_kv_heads for w in widths]))
        F = dim(0, [w[2].d_ff for w in widths]) if inner[0] is None else dim(1, inner)
        C = None
        if kept[0][1] is not None:
            C = dim(2, [tokens_kept(x, T, spec.mod.rounding, spec.mod.multiple_of) for _, x in kept])
        if spec.moe:
            own = {"d_ff": [w[2].expert for w in widths], "shared_d_ff": [w[2].shared for w in widths]}
            own = {k: dim(0, v) for k, v in own.items() if v[0] is not None}
            spec = structs.replace(spec, moe=structs.replace(spec.moe, **own))

        def block(b: BlockPlan) -> BlockPlan:
            r = b.routing
            if r is not None:
                r = structs.replace(r, share=float(r.share)) if C is None else structs.replace(r, capacity=C, share=C / T)
            return block_plan(
                spec, d_model=D, n_heads=H, n_kv_heads=K, head_dim=self.family.head_dim or heads(spec)[2], d_ff=F,
                window=b.attention.window, rotated=b.attention.rotary_dim > 0, experts=isinstance(b.ffn, MoePlan), routing=r,
            )  # fmt: skip

        costs = {name: np.empty((1 + len(parts), *box)) for name in self.names}
        frames = np.array([self._frame(w[1]) for w in widths])  # [d, names]
        for i, name in enumerate(self.names):
            costs[name][0] = frames[:, i].reshape(-1, 1, 1)
        for k, part in enumerate(parts, 1):
            groups, recursion = (Group(part, 1),), None
            if isinstance(part, Plan):
                groups, recursion = part.groups, part.recursion
                recursion = structs.replace(recursion, routings=tuple(structs.replace(r, share=float(r.share)) for r in recursion.routings))
            groups = tuple(structs.replace(g, block=block(g.block)) for g in groups)
            plan = Plan(n_layers=1, groups=groups, recursion=recursion, **frame(spec, D, T))
            for name, cost in bill(plan, self.names, self.basis, lambda op: op.path.startswith(("blocks.", "recursions."))).items():
                costs[name][k] = cost
        index = (
            along(0, [w[0] for w in widths], np.int64) * self.stride["d_model"]
            + along(1, range(f.start, f.start + box[1]), np.int64) * self.stride["d_ff"]
            + along(2, [k[0] for k in kept], np.int64) * self.stride["capacity"]
        )
        flat = {name: cost.reshape(1 + len(parts), -1) for name, cost in costs.items()}
        flat_D, flat_F = (np.broadcast_to(np.asarray(x, float), box).reshape(1, -1) for x in (D, F))
        return index.reshape(1, -1), flat_D, flat_F, flat

    def _frame(self, d_model: int) -> list[float]:
        """Costs of embedding and head, in `names`; exact until here."""
        if d_model not in self._frames:
            spec = self.family.spec
            plan = Plan(n_layers=0, groups=(), **frame(spec, d_model, self.basis.seq_len))
            found = bill(plan, self.names, self.basis)
            self._frames[d_model] = [float(found[n]) for n in self.names]
        return self._frames[d_model]

"""The shapes of a spec: what follows when its depth, widths, capacity or frequency of routing change."""

from dataclasses import dataclass
from fractions import Fraction
from math import gcd, isclose, lcm
from typing import NamedTuple

from msgspec import structs

from modcalc.errors import UsageError
from modcalc.spec.resolve import exact, full_is_multi_head, heads, inner_width, inner_widths, mlp_layers, up
from modcalc.spec.schema import FullAttention, Spec

HARDWARE_MULTIPLE = 64  # tensor cores and their tilings like widths in multiples of this


class Shape(NamedTuple):
    """One combination of the knobs. d_ff None: as the family's ratio gives it; capacity, every None: as the spec has them."""

    n_layers: int
    d_model: int
    d_ff: int | None = None
    capacity: float | int | None = None
    every: int | None = None


KNOBS = Shape._fields


class Widths(NamedTuple):
    """What follows from d_model: heads H, key/value heads K, d_ff, and the inner widths of experts that have their own."""

    n_heads: int
    n_kv_heads: int
    d_ff: int
    expert: int | None
    shared: int | None


@dataclass(frozen=True)
class Family:
    """Shapes that share everything but the knobs with `spec`.

    head_dim stays (or is the one given), so the number of heads follows d_model. Key/value heads are as many as heads
    where the spec has it so, else their number stays and must divide the heads; likewise in layers without a window.
    Inner widths keep their ratio to d_model, rounded up to a multiple. Latent ranks, bypass and predictor widths
    stay.
    """

    spec: Spec
    head_dim: int | None = None
    multiple: int | None = None  # of d_model and d_ff, where the user says so

    def __post_init__(self) -> None:
        if self.head_dim is not None and self.spec.attention.latent:
            raise UsageError(f"{self.spec.name}: latent attention has head dims of its own; --head-dim does not apply")
        if self.head_dim is not None and self.spec.attention.full and self.spec.attention.full.head_dim:
            raise UsageError(f"{self.spec.name}: attention.full.head_dim is another head dim beside that of other layers; --head-dim does not apply")

    @property
    def own(self) -> Shape:
        """The spec itself."""
        return Shape(self.spec.n_layers, self.spec.d_model)

    @property
    def heads_per_width(self) -> Fraction:
        return Fraction(1, self.head_dim) if self.head_dim else Fraction(self.spec.attention.n_heads, self.spec.d_model)

    @property
    def head_multiple(self) -> int:
        """Widths in multiples of this have whole heads that share their keys evenly."""
        H = self.heads_per_width
        return lcm(H.denominator, *(H.denominator * (K // gcd(H.numerator, K)) for K in self.kv_heads))

    @property
    def width_multiple(self) -> int:
        """Widths in multiples of this have whole heads and suit the hardware."""
        return self.multiple or lcm(HARDWARE_MULTIPLE, self.heads_per_width.denominator)

    @property
    def ff_multiple(self) -> int:
        """What derived inner widths are rounded up to: the user's multiple or the spec's own, else 64 as far as its d_ff has it."""
        mlp = self.spec.mlp
        return self.multiple or (mlp.multiple_of if mlp.ratio is not None else gcd(mlp.d_ff, HARDWARE_MULTIPLE))

    @property
    def ff_ratio(self) -> Fraction:
        """d_ff / d_model."""
        mlp = self.spec.mlp
        return exact(mlp.ratio) if mlp.ratio is not None else Fraction(mlp.d_ff, self.spec.d_model)

    @property
    def many_kv_heads(self) -> bool:
        """Whether there are as many key/value heads as heads."""
        return self.spec.attention.n_kv_heads in (None, self.spec.attention.n_heads)

    @property
    def kv_heads(self) -> list[int]:
        """Numbers of key/value heads that stay, and so divide the heads of every shape; without those that are as many as heads."""
        a = self.spec.attention
        return [K for K in (a.n_kv_heads, a.full and a.full.n_kv_heads) if K and a.n_heads != K]

    def widths(self, d_model: int) -> Widths | None:
        """The widths of shapes as wide as `d_model`; None where heads are not whole or do not share their keys evenly."""
        H = self.heads_per_width * d_model
        K = H if self.many_kv_heads else self.spec.attention.n_kv_heads
        if H.denominator != 1 or any(H.numerator % heads for heads in self.kv_heads):
            return None
        moe = self.spec.moe
        expert, shared = (moe.d_ff, moe.shared_d_ff) if moe else (None, None)
        return Widths(
            int(H), int(K), self._inner(d_model), expert and self._scaled(expert, d_model), shared and self._scaled(shared, d_model)
        )  # fmt: skip

    def _inner(self, d_model: int) -> int:
        return up(self.ff_ratio * d_model, self.ff_multiple)

    def _scaled(self, width: int, d_model: int) -> int:
        """`width` of the spec's experts in proportion to d_model, rounded up to 64 as far as it is a multiple of that."""
        return up(Fraction(width, self.spec.d_model) * d_model, gcd(width, HARDWARE_MULTIPLE))

    def demand(self, knobs: "set[str] | dict") -> None:
        """Raise UsageError if the family does not have one of `knobs`, or says something that hinders it."""
        spec, mod, moe = self.spec, self.spec.mod, self.spec.moe
        for knob in ("capacity", "every"):
            if knob in knobs and mod is None:
                raise UsageError(f"{knob}: {spec.name} is a dense family without such a knob; it has n_layers, d_model, d_ff (or add a mod: section)")
            if knob in knobs and mod.recursions:
                raise UsageError(f"{knob}: {spec.name} applies shared blocks with nested capacities and has no such knob")
        if mod and not mod.recursions and {"n_layers", "every"} & set(knobs):
            if mod.layers is not None:
                raise UsageError(f"{spec.name}: mod.layers lists the routed blocks, so n_layers and every cannot vary; give every and offset")
            if isinstance(mod.capacity, list) and "capacity" not in knobs:
                raise UsageError(f"{spec.name}: mod.capacity lists a value for each routed block, so n_layers and every cannot vary; give one value")
        if mod and mod.recursions and mod.layers is not None and "n_layers" in knobs:
            raise UsageError(f"{spec.name}: mod.layers lists the shared blocks, so n_layers is not free")
        if moe and moe.layers is not None and "n_layers" in knobs:
            raise UsageError(f"{spec.name}: moe.layers lists the layers with experts, so n_layers is not free; give every and offset instead")
        if moe and moe.d_ff is not None and "d_ff" in knobs and not mlp_layers(spec):
            raise UsageError(f"d_ff: every block of {spec.name} has experts of width moe.d_ff, so the knob would change nothing; remove moe.d_ff")

    def apply(self, shape: Shape) -> Spec:
        """The spec of one shape, its budget and source left behind. Raises UsageError where heads do not fit."""
        spec, w = self.spec, self.widths(shape.d_model)
        if w is None:
            shared = " and ".join(map(str, self.kv_heads))
            wanted = f"whole heads that {shared} key/value heads divide" if shared else "whole heads"
            raise UsageError(f"{spec.name}: d_model {shape.d_model} does not make {wanted}; give a multiple of {self.head_multiple}")
        changes: dict = dict(n_layers=shape.n_layers, d_model=shape.d_model, budget=None, source=None)
        if shape.d_model != spec.d_model or self.head_dim:
            changes["attention"] = structs.replace(
                spec.attention,
                n_heads=w.n_heads,
                n_kv_heads=None if spec.attention.n_kv_heads is None else w.n_kv_heads,
                head_dim=spec.attention.head_dim and (self.head_dim or spec.attention.head_dim),
                full=self._full(w.n_heads),
            )
            if spec.moe:
                changes["moe"] = structs.replace(spec.moe, d_ff=w.expert, shared_d_ff=w.shared)
            scale = spec.embedding.scale
            if scale is not None and isclose(scale, spec.d_model**0.5, rel_tol=1e-6):  # Gemma's rule
                changes["embedding"] = structs.replace(spec.embedding, scale=shape.d_model**0.5)
        d_ff = shape.d_ff or w.d_ff
        if d_ff != inner_width(spec) or shape.d_model != spec.d_model:
            changes["mlp"] = structs.replace(spec.mlp, d_ff=d_ff, ratio=None, multiple_of=1)
        if shape.capacity is not None or shape.every is not None:
            given = {k: v for k, v in (("capacity", shape.capacity), ("every", shape.every)) if v is not None}
            changes["mod"] = structs.replace(spec.mod, **given)
        return structs.replace(spec, **changes)

    def _full(self, n_heads: int) -> FullAttention | None:
        """Heads of layers without a window, of a shape with so many."""
        full = self.spec.attention.full
        return structs.replace(full, n_kv_heads=n_heads) if full_is_multi_head(self.spec.attention) else full

    def name(self, shape: Shape, spec: Spec) -> str:
        """A name that tells the shape from its sisters."""
        mod = "" if shape.capacity is None else f"-c{shape.capacity}"
        mod += "" if shape.every is None else f"-e{shape.every}"
        d_ff, expert = inner_widths(spec)
        own = self.spec.name[:120].rstrip()  # a name has at most 200 characters
        return f"{own}-l{shape.n_layers}-d{shape.d_model}-f{expert if d_ff is None else d_ff}{mod}"

    def rules(self, knobs: "set[str] | dict") -> list[str]:
        """How the widths follow, in words."""
        a, mlp = self.spec.attention, self.spec.mlp
        words = []
        if "d_model" in knobs or self.head_dim:
            if a.latent:
                words.append(f"latent attention, {self.heads_per_width} heads per unit of d_model")
            else:
                words.append(f"head_dim {self.head_dim or heads(self.spec)[2]}, heads {self.heads_per_width} of d_model")
                words.append("key/value heads as many as heads" if self.many_kv_heads else f"{a.n_kv_heads} key/value heads, which divide the heads")
                if a.full and (a.full.n_kv_heads or a.full.head_dim):
                    words.append(f"in layers without a window {self._words_of_full()}")
        if "d_model" in knobs and "d_ff" not in knobs:
            ratio = mlp.ratio if mlp.ratio is not None else float(round(self.ff_ratio, 4))
            words.append(f"d_ff {ratio:g} d_model" + (f" up to a multiple of {self.ff_multiple}" if self.ff_multiple > 1 else ""))
        return words + self._of_experts(knobs)

    def _words_of_full(self) -> str:
        full, words = self.spec.attention.full, []
        if full.head_dim:
            words.append(f"head_dim {full.head_dim}")
        if full.n_kv_heads:
            many = "as many key/value heads as heads" if full_is_multi_head(self.spec.attention) else f"{full.n_kv_heads} key/value heads"
            words.append(many)
        return ", ".join(words)

    def _of_experts(self, knobs: "set[str] | dict") -> list[str]:
        """Experts with a width of their own: how that follows, and what is left to d_ff."""
        spec, moe = self.spec, self.spec.moe
        if not (moe and moe.d_ff):
            return []
        grows = f"experts keep their share of d_model (moe.d_ff {moe.d_ff:,} at {spec.d_model:,}), rounded up"
        dense = mlp_layers(spec)
        where = f"of blocks without experts, {dense:,} of {spec.n_layers:,} in {spec.name}" if dense else "of no block: all have experts"
        return [f"{grows if 'd_model' in knobs else f'experts keep moe.d_ff {moe.d_ff:,}'}; d_ff is the width {where}"]

"""Where rows are written: what every row of one module in one workload has in common."""

from msgspec import Struct
from msgspec.structs import replace

from modcalc.cost.ops import Linear, NormOp, Pointwise
from modcalc.cost.workload import Workload
from modcalc.spec.plan import Dim, NormPlan, RoutingPlan


class At(Struct, frozen=True):
    """Where rows are written: workload, path prefix, layers, the tokens that pass here, and the tensors that they stand in."""

    work: Workload
    prefix: str
    tokens: Dim  # new tokens of a sequence that pass
    cached: Dim  # cached tokens of a sequence that they see
    all: Dim  # tokens of a whole sequence, as long as the plan's, that pass here
    repeat: Dim = 1
    layers: tuple[int, ...] = ()
    own: bool = True
    active: object = 1
    scope: str = ""
    x: str = ""  # the tensor that comes in
    positions: str = "positions"  # those of the whole sequence, or of kept tokens

    def name(self, of: str) -> str:
        """A module's path, or a tensor's name."""
        return f"{self.prefix}.{of}" if of and self.prefix else of or self.prefix

    def common(self, name: str, component: str, **over: object) -> dict:
        """The fields that every row of this place has, some of them in place of its own."""
        fields = dict(batch=self.work.batch, length=self.work.seq_len, tokens=self.tokens, repeat=self.repeat, layers=self.layers)
        fields |= dict(own=self.own, active=self.active, scope=self.scope, reads=self.x)
        return dict(path=self.name(name), component=component, **{**fields, **over})

    def linear(self, name: str, component: str, d_in: Dim, d_out: Dim, bias: bool = False, tied: bool = False, **over: object) -> Linear:
        return Linear(d_in=d_in, d_out=d_out, bias=bias, tied=tied, **self.common(name, component, **over))

    def norm(self, name: str, n: NormPlan, vectors: Dim = 1, **over: object) -> NormOp:
        affine = dict(weight=n.weight, bias=n.bias, groups=n.groups, part=n)
        return NormOp(norm=n.kind, width=n.width, vectors=vectors, **affine, **self.common(name, "norm", **over))

    def point(self, name: str, component: str, what: str, size: Dim, **over: object) -> Pointwise:
        return Pointwise(what=what, size=size, **self.common(name, component, **over))

    def with_tokens(self, tokens: Dim, active: object) -> "At":
        """Where no attention is, so that no cached token is seen."""
        return replace(self, tokens=tokens, cached=0, active=active)

    def kept(self, r: RoutingPlan, tokens: Dim, cached: Dim) -> "At":
        """Behind a router: `tokens` of the new ones pass, and see `cached`."""
        whole = self.all if self.work.sampling and self.work.routing == "all" else r.capacity
        return replace(self, tokens=tokens, cached=cached, all=whole, active=r.share)

    def of(self, x: str) -> "At":
        """The same place, reading the tensor `x` of this prefix."""
        return replace(self, x=self.name(x))


def equal(a: Dim, b: Dim) -> bool:
    """Whether both are the same number; an array is the same as itself only."""
    return a is b or isinstance(a, int) and isinstance(b, int) and a == b


def nonzero(x: Dim) -> bool:
    """Whether there is something to bill; of an array there always is."""
    return not isinstance(x, int) or x > 0

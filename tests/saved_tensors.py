"""What torch's autograd keeps, measured: storages that live from the forward to the backward pass, parameters left out."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any
from weakref import WeakSet

import torch
from modcalc.models.attention import Core
from modcalc.models.block import Block
from modcalc.models.positions import Positions
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.checkpoint import checkpoint

# In torch 2.6 RMSNorm of a bf16 input keeps one tensor less; from 2.9 on what is billed.
BILLED = ("fp32", "bf16") if torch.__version__ >= "2.9" else ("fp32",)
Sizes = dict[int, int]  # address of a storage -> its bytes


class Kept:
    """What the graph holds in place of a tensor: it goes when the graph lets go of it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def sizes(tensors: Iterable[Tensor]) -> Sizes:
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


def kept(model: nn.Module, run: Callable[[], Any]) -> tuple[Sizes, Any]:
    """(storages of saved tensors that are alive after `run`, what it returned, which holds the graph)."""
    alive: WeakSet[Kept] = WeakSet()

    def pack(tensor: Tensor) -> Kept:
        one = Kept(tensor)
        alive.add(one)
        return one

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one.tensor):
        out = run()
    own = sizes([*model.parameters(), *model.buffers()])
    return {at: n for at, n in sizes(one.tensor for one in alive).items() if at not in own}, out


def parts(model: nn.Module, recompute: str) -> list[nn.Module]:
    """The modules that run again: blocks, or attention cores that are not fused."""
    if recompute == "full":
        return [m for m in model.modules() if isinstance(m, Block)]
    return [m for m in model.modules() if isinstance(m, Core) and not m.fused] if recompute == "selective" else []


def made_of(args: tuple) -> Iterator[Tensor]:
    """Tensors that a call's Positions hold: a module that runs again needs them, and so keeps them."""
    for positions in (arg for arg in args if isinstance(arg, Positions)):
        yield positions.index
        if positions.valid is not None:
            yield positions.valid
        for made in positions._made.values():
            yield from made if isinstance(made, tuple) else () if made is None else (made,)


class Calls:
    """Replaces forward of some modules, and remembers what each was called with."""

    def __init__(self, modules: list[nn.Module], through: Callable[..., Any]) -> None:
        self.seen: list[tuple[Callable, tuple]] = []
        self.modules = [(module, module.forward) for module in modules]
        for module, forward in self.modules:
            module.forward = self._replacing(forward, through)

    def _replacing(self, forward: Callable, through: Callable[..., Any]) -> Callable:
        def call(*args: Any) -> Any:
            self.seen.append((forward, args))
            return through(forward, *args)

        return call

    def restore(self) -> None:
        for module, forward in self.modules:
            module.forward = forward


def kept_bytes(model: nn.Module, recompute: str, run: Callable[[], Any]) -> int:
    """Bytes kept when the parts that `recompute` names go through torch's checkpoint."""
    calls = Calls(parts(model, recompute), lambda forward, *args: checkpoint(forward, *args, use_reentrant=False))
    found, out = kept(model, run)
    for _, args in calls.seen:
        found |= sizes(made_of(args))
    calls.restore()
    del out
    return sum(found.values())


def again_bytes(model: nn.Module, recompute: str, run: Callable[[], Any]) -> int:
    """The most that one part keeps beside what goes into it, when it runs alone."""
    modules = parts(model, recompute)
    if not modules:
        return 0
    calls = Calls(modules, lambda forward, *args: forward(*args))
    run()
    calls.restore()
    most = 0
    for forward, args in calls.seen:
        there = sizes([*(a for a in args if isinstance(a, Tensor)), *made_of(args)])
        found, _ = kept(model, lambda forward=forward, args=args: forward(*args))
        most = max(most, sum(n for at, n in found.items() if at not in there))
    return most


class Peak(TorchDispatchMode):
    """The most bytes of all storages alive, whose sizes may change; those that were there before are told by `add`."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self.seen: WeakSet = WeakSet()

    def add(self, tensor: Tensor) -> None:
        self.seen.add(tensor.untyped_storage())

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, Tensor):
                self.add(value)
        self.most = max(self.most, sum(storage.nbytes() for storage in list(self.seen)))
        return out

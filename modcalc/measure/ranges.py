"""Profiler ranges named after modules, and the module that each of the profiler's events works for."""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.profiler import record_function

from modcalc.measure.steptime import Step

if TYPE_CHECKING:
    from torch.autograd.profiler_util import FunctionEvent

Forward = Callable[..., Any]

PREFIX = "modcalc:"
STEP = f"{PREFIX}step"
MODULE = f"{PREFIX}module:"
USER_SCOPE = 7
# record_function calls an operator: some 50 us once a matrix product has emptied the caches, in all a tenth of a small step.
Range = getattr(torch._C._profiler, "_RecordFunctionFast", record_function)


class Ranged:
    """A step with a range around its work, so that the making of inputs can be told apart."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.range = Range(STEP)

    def prepare(self) -> None:
        self.step.prepare()

    def run(self) -> None:
        with self.range:
            self.step.run()


def ranges(model: nn.Module) -> AbstractContextManager[None]:
    """Every module of `model` opens a profiler range named after its path for as long as its forward runs."""

    def ranged(forward: Forward, name: str) -> Forward:
        opened = Range(f"{MODULE}{name}")

        def run(*args: Any, **kwargs: Any) -> Any:
            with opened:
                return forward(*args, **kwargs)

        return run

    return wrapped(model, ranged)


@contextmanager
def wrapped(model: nn.Module, wrap: Callable[[Forward, str], Forward]) -> Iterator[None]:
    """Every module of `model` has wrap(its forward, its path) as its forward; hooks would take a longer way through Module.__call__."""
    before = [(module, module.__dict__.get("forward")) for module in model.modules()]
    for name, module in model.named_modules():
        module.forward = wrap(module.forward, name)
    try:
        yield
    finally:
        for module, own in before:
            if own is None:
                del module.forward
            else:
                module.forward = own


class Owners:
    """Which module path (or `loss`, `optimizer`) each profiler event works for; None: not part of a step, '': nobody's."""

    def __init__(self, events: "list[FunctionEvent]", train: bool) -> None:
        self.outside = "loss" if train else ""
        self.known: dict[int, str | None] = {}  # by id(event): event.id is not unique, as CUDA's calls have a count of their own
        self.nodes: dict[int, list[tuple[int, str]]] = {}
        host = [e for e in events if e.device_type == torch.autograd.DeviceType.CPU and not e.is_async]
        forward = [e for e in host if not _backward(e) and e.sequence_nr >= 0]
        made: dict[int, dict[int, str]] = {}
        for event in sorted(forward, key=lambda e: e.time_range.start):
            owner = self.of(event)
            if owner is not None:
                # Operations show the number of the next node: the last one to show it made that node.
                made.setdefault(event.thread, {})[event.sequence_nr] = owner
        self.nodes = {thread: sorted(owners.items()) for thread, owners in made.items()}
        last: dict[int, str] = {}
        for event in sorted((e for e in host if _evaluates(e)), key=lambda e: e.time_range.start):
            # Accumulating a gradient has no number of its own; the engine does it right after the node that made the gradient.
            owner = self._node(event) if event.sequence_nr >= 0 else last.get(event.thread, self.outside)
            last[event.thread] = self.known[id(event)] = owner
        self.events = host

    def of(self, event: "FunctionEvent | None") -> str | None:
        if event is None:
            return None
        if id(event) not in self.known:
            self.known[id(event)] = self._find(event)
        return self.known[id(event)]

    def _find(self, event: "FunctionEvent") -> str | None:
        if event.name == STEP:
            return ""
        if event.name.startswith(MODULE):
            return event.name.removeprefix(MODULE)
        if event.name.startswith("Optimizer."):
            return "optimizer"
        above = event.cpu_parent
        return self.outside if above is not None and above.name == STEP else self.of(above)

    def _node(self, event: "FunctionEvent") -> str:
        nodes = self.nodes.get(event.fwd_thread, [])
        at = bisect_right(nodes, (event.sequence_nr, chr(0x10FFFF))) - 1
        return nodes[at][1] if at >= 0 else self.outside


def _evaluates(event: "FunctionEvent") -> bool:
    return event.name.startswith("autograd::engine::evaluate_function")


def _backward(event: "FunctionEvent | None") -> bool:
    while event is not None:
        if _evaluates(event):
            return True
        event = event.cpu_parent
    return False

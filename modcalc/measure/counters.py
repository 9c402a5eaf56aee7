"""Counting the FLOPs of a torch module by running it: by fvcore's trace, or by torch's FlopCounterMode.

Both count what an implementation computes: matrix products at 2 FLOPs per multiply-add, attention over all T x S
pairs. Everything else is free by convention and listed; an operator that is neither counted nor known to be free
makes the count fail, so that a number is either whole or not there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from modcalc.errors import MissingDependency, UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

COUNTERS = ("fvcore", "torch")


@dataclass(frozen=True, slots=True)
class Counted:
    """What a counter saw. FLOPs, 2 per multiply-add.

    by_path: module path -> FLOPs of the module's own work, without its children's; paths without FLOPs are left out.
    free: operator -> calls, of operators that cost nothing by convention (views and bookkeeping are not listed).
    """

    counter: str
    backward: bool
    total_flops: int
    by_path: dict[str, int]
    free: dict[str, int] = field(default_factory=dict)


def installed() -> list[str]:
    """The counters that can be used here; nothing is imported."""
    if find_spec("torch") is None:
        return []
    return [name for name in COUNTERS if name == "torch" or find_spec("fvcore") is not None]


def count(
    model: "nn.Module",
    inputs: "tuple[int, ...] | Tensor | tuple[Tensor, ...]",
    counter: str = "fvcore",
    *,
    backward: bool = False,
    kwargs: Mapping[str, Any] | None = None,
) -> Counted:
    """FLOPs of `model(*inputs, **kwargs)`, and of its backward pass with `backward` (counter torch only).

    inputs: the shape of a token tensor (made of zeros on the model's device), a tensor, or a tuple of tensors. A model
    on the meta device is counted without computing anything. Parameters, gradients, hooks and the random state are
    afterwards as before. Backward starts from the sum of all outputs that require a gradient. Fused attention counts
    what it computes, 2.5 times its forward pass; recomputation (checkpointing) counts as well.

    Raises CountFailed, with the reason, where the counter cannot count the model, above all where an operator is
    neither counted nor known to be free; UsageError for an unknown counter; MissingDependency without torch or fvcore.
    """
    if counter not in COUNTERS:
        raise UsageError(f"counter {counter!r}: one of {', '.join(COUNTERS)}")
    if counter == "fvcore" and backward:
        raise UsageError("counter 'fvcore' traces the forward pass only; count the backward pass with counter 'torch'")
    for package in ("torch", *(["fvcore"] if counter == "fvcore" else [])):
        if find_spec(package) is None:
            raise MissingDependency(f"counter {counter!r} needs {package}, which is not installed; run: pip install 'modcalc[torch]'")
    from modcalc.measure import running, torch_counter

    if counter == "fvcore":  # which is not needed to count by torch
        from modcalc.measure import fvcore_counter

    inputs = running.tensors_of(model, inputs)
    kwargs = dict(kwargs or {})
    with running.undisturbed(model, backward):
        if counter == "fvcore":
            return fvcore_counter.count(model, inputs, kwargs)
        return torch_counter.count(model, inputs, kwargs, backward)

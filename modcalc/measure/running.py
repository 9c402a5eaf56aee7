"""Running a module for a counter: its inputs, its outputs as a flat list, its paths, and everything left as it was."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves

from modcalc.errors import CountFailed

# Wrapper class -> its attribute that holds the wrapped module, which is no part of a path.
WRAPPERS = {
    "CheckpointWrapper": "_checkpoint_wrapped_module",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "OptimizedModule": "_orig_mod",
}


def tensors_of(model: nn.Module, inputs: "tuple[int, ...] | Tensor | tuple[Tensor, ...]") -> tuple[Tensor, ...]:
    """Inputs as a tuple of tensors; a shape becomes tokens 0 on the model's device."""
    if isinstance(inputs, Tensor):
        return (inputs,)
    if all(isinstance(n, int) for n in inputs):
        parameter = next(model.parameters(), None)
        return (torch.zeros(tuple(inputs), dtype=torch.long, device="cpu" if parameter is None else parameter.device),)
    return tuple(inputs)


def outputs_of(output: Any) -> list[Tensor]:
    """The tensors of an output of any nesting (tuples, lists, dicts, NamedTuples), None and plain values dropped.

    Raises CountFailed where something else could hide tensors whose work a trace would leave out.
    """
    leaves = tree_leaves(output)
    strange = sorted({type(x).__name__ for x in leaves if not isinstance(x, (Tensor, type(None), bool, int, float, str))})
    if strange:
        raise CountFailed(f"the model returns {', '.join(strange)}, whose tensors cannot be found; return tensors, tuples or dicts")
    return [x for x in leaves if isinstance(x, Tensor)]


def is_fake(model: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    """Whether fake tensors are about: in the model, its inputs, or by a FakeTensorMode that is on."""
    return any(isinstance(t, FakeTensor) for t in (*model.parameters(), *model.buffers(), *inputs, torch.empty(0)))


def paths_of(model: nn.Module) -> dict[str, str]:
    """Name in `named_modules()`, every name of a shared module included -> path without the names of wrappers; shared modules keep their first."""
    paths: dict[str, str] = {}
    first: dict[nn.Module, str] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, module in modules.items():
        if module not in first:
            above, _, own = name.rpartition(".")
            wrapped = name and WRAPPERS.get(type(modules[above]).__name__) == own
            base = paths[above] if name else ""
            first[module] = base if wrapped or not name else f"{base}.{own}".lstrip(".")
        paths[name] = first[module]
    return paths


def _compiled(model: nn.Module) -> Iterator[tuple[dict[str, Any], str, Any, Any]]:
    """(attributes, name, compiled, eager) of every compiled module: a trace refuses compiled code even where it would run eagerly."""
    for module in model.modules():
        attributes = vars(module)
        if attributes.get("_compiled_call_impl") is not None:
            yield attributes, "_compiled_call_impl", attributes["_compiled_call_impl"], None
        if type(module).__name__ == "OptimizedModule":
            yield attributes, "forward", attributes["forward"], module._orig_mod.__call__


@contextmanager
def undisturbed(model: nn.Module, backward: bool) -> Iterator[None]:
    """Conditions under which a counter sees every operation, and a model that is afterwards as before.

    Compiled code runs eagerly, fused inference paths of torch.nn are off, inference mode is off; gradients are
    recorded only for a backward pass. Hooks, gradients and the random state are restored.
    """
    compiled = list(_compiled(model))
    hooks = [(m, m._forward_hooks.copy(), m._forward_pre_hooks.copy()) for m in model.modules()]
    grads = [(p, p.grad) for p in model.parameters()]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    cuda = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(backward))
        if "torch._dynamo" in sys.modules:  # else nothing can be compiled, and loading it takes a second
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="Using `torch.compile")  # about the counters' hooks on modules
        torch.backends.mha.set_fastpath_enabled(False)
        for attributes, name, _, eager in compiled:
            attributes[name] = eager
        try:
            if backward:
                for p, _ in grads:
                    p.grad = None
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
            for attributes, name, before, _ in compiled:
                attributes[name] = before
            for p, grad in grads:
                p.grad = grad
            for module, hooks_after, hooks_before in hooks:
                module._forward_hooks = hooks_after
                module._forward_pre_hooks = hooks_before

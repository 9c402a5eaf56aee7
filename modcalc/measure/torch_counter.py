"""torch's FlopCounterMode, completed: formulas that it lacks, FLOPs by module path in both directions, and an audit.

FlopCounterMode attributes by hooks on tensors, so that modules which share an input (q, k and v projections) get each
other's backward work. Here its formulas report to a tracker of modules and autograd nodes instead; the sum over paths is
its total.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from modcalc.errors import CountFailed, reason
from modcalc.measure.counters import Counted
from modcalc.measure.free_ops import free_or_fail
from modcalc.measure.products import attention_backward_macs, attention_macs, grouped_macs, matmul_macs
from modcalc.measure.running import outputs_of, paths_of

Formula = Callable[..., int]


def _by_shape(macs: Callable[..., int], first: int, last: int) -> Formula:
    """FLOPs from the shapes of the arguments first..last-1."""
    return lambda *args, **kwargs: 2 * macs(*(t.shape for t in args[first:last]))


_FUSED = ("cudnn_attention", "efficient_attention", "flash_attention", "flash_attention_for_cpu", "fused_attention_overrideable")
# FlopCounterMode counts these as 0; or, in older torch, refuses fused attention with fewer key/value heads than query heads.
FORMULAS: dict[str, Formula] = {
    "_grouped_mm": _by_shape(grouped_macs, 0, 2),
    "addbmm": _by_shape(matmul_macs, 1, 3),
    "addmv": _by_shape(matmul_macs, 1, 3),
    "dot": _by_shape(matmul_macs, 0, 2),
    "mv": _by_shape(matmul_macs, 0, 2),
    "vdot": _by_shape(matmul_macs, 0, 2),
    **{f"_scaled_dot_product_{kernel}": _by_shape(attention_macs, 0, 3) for kernel in _FUSED},
    **{f"_scaled_dot_product_{kernel}_backward": _by_shape(attention_backward_macs, 1, 4) for kernel in _FUSED},
}


class _Audit(TorchDispatchMode):
    """Counts the calls of every operator that reaches the dispatcher, decompositions done."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = defaultdict(int)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.calls[name_of(func)] += 1
        return func(*args, **(kwargs or {}))


def name_of(func: Any) -> str:
    """`space::name` of an operator, an overload packet or a higher-order operator."""
    schema = getattr(func, "_schema", None)
    if schema is not None:
        return schema.name
    return getattr(func, "_qualified_op_name", None) or f"higher_order::{func.__name__}"


class _Where:
    """The module path of the work that is being done: the module whose forward runs, or whose autograd node does."""

    def __init__(self) -> None:
        self.stack: list[str] = []
        self.node_path = ""
        self.tagged: set[Any] = set()

    def watch(self, model: nn.Module) -> None:
        paths = paths_of(model)
        for name, module in model.named_modules():
            # No handles are kept: running.undisturbed restores all hooks.
            module.register_forward_pre_hook(partial(self._enter, paths[name]), with_kwargs=True, prepend=True)
            module.register_forward_hook(partial(self._leave, paths[name]), with_kwargs=True, always_call=True)

    @property
    def path(self) -> str:
        return self.stack[-1] if self.stack else self.node_path

    def _enter(self, path: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.stack.append(path)

    def _leave(self, path: str, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        self.stack.pop()
        # Nodes made in this module that no child has claimed, down to those of its inputs.
        inputs = {t.grad_fn for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        todo = [t.grad_fn for t in tree_leaves(output) if isinstance(t, Tensor)]
        while todo:
            node = todo.pop()
            if node is None or node in inputs or node in self.tagged or not node.next_functions:
                continue
            self.tagged.add(node)
            node.register_prehook(partial(self._at_node, path))
            todo += [following for following, _ in node.next_functions]

    def _at_node(self, path: str, grads: tuple) -> None:
        self.node_path = path


def _formulas(add: Callable[[int], None]) -> dict[Any, Formula]:
    """FlopCounterMode's formulas and ours, each reporting to `add` as well."""
    ours = {getattr(torch.ops.aten, name): formula for name, formula in FORMULAS.items() if hasattr(torch.ops.aten, name)}

    def reporting(formula: Formula) -> Formula:
        def report(*args: Any, **kwargs: Any) -> int:
            flops = formula(*args, **kwargs)
            add(flops)
            return flops

        report._get_raw = True  # FlopCounterMode: called with tensors, not with shapes
        return report

    return {op: reporting(formula) for op, formula in {**flop_registry, **ours}.items()}


def count(model: nn.Module, inputs: tuple[Tensor, ...], kwargs: dict[str, Any], backward: bool) -> Counted:
    """FLOPs of `model(*inputs, **kwargs)`; see modcalc.measure.counters.count, which prepares and restores the model."""
    where = _Where()
    by_path: dict[str, int] = defaultdict(int)

    def add(flops: int) -> None:
        by_path[where.path] += flops

    formulas = _formulas(add)
    audit, counter = _Audit(), FlopCounterMode(display=False, custom_mapping=formulas)
    try:
        where.watch(model)
        with audit, counter:
            outputs = outputs_of(model(*inputs, **kwargs))
            if backward:
                starts = [t.sum() for t in outputs if t.requires_grad]
                if not starts:
                    raise CountFailed("no output of the model requires a gradient: there is no backward pass to count")
                torch.autograd.backward(starts)
    except CountFailed:
        raise
    except Exception as wrong:
        raise CountFailed(f"torch's counter cannot run the model: {reason(wrong)}") from wrong
    finally:
        where.tagged.clear()
    free = free_or_fail("torch's counter", audit.calls, {name_of(op) for op in formulas if hasattr(op, "_qualified_op_name")})
    return Counted("torch", backward, counter.get_total_flops(), {path: n for path, n in by_path.items() if n}, free)

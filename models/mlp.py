"""Linear layers, activations and the feed-forward network."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modcalc.spec.plan import MlpPlan


class Linear(nn.Linear):
    """nn.Linear that leaves its weight to `initialise` (modcalc.models.initialise), so that no weight is drawn twice."""

    def reset_parameters(self) -> None:
        pass


def gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def relu2(x: Tensor) -> Tensor:
    """Squared ReLU (Primer, arXiv 2109.08668)."""
    return F.relu(x).square()


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x) (Hendrycks and Gimpel, arXiv 1606.08415, section 2)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "silu": F.silu,
    "relu": F.relu,
    "relu2": relu2,
    "quick_gelu": quick_gelu,
}


def swiglu_clamped(gate: Tensor, up: Tensor) -> Tensor:
    """gpt-oss (arXiv 2508.10925, section 2.1, and its reference code): clamped at 7, and up shifted by 1."""
    return quick_gelu(gate.clamp(max=7.0)) * (up.clamp(min=-7.0, max=7.0) + 1)


def activate(plan: MlpPlan, up: Tensor, gate: Tensor | None) -> Tensor:
    """act(up), or act(gate) * up."""
    if gate is None:
        return ACTIVATIONS[plan.activation](up)
    if plan.activation == "swiglu_clamped":
        return swiglu_clamped(gate, up)
    return ACTIVATIONS[plan.activation](gate) * up


class Mlp(nn.Module):
    """down(act(up x)), or gated: down(act(gate x) * up x). x: [..., D] -> [..., D]."""

    def __init__(self, plan: MlpPlan, d_model: int) -> None:
        super().__init__()
        self.plan = plan
        self.gate_proj = Linear(d_model, plan.d_ff, bias=plan.bias) if plan.gated else None
        self.up_proj = Linear(d_model, plan.d_ff, bias=plan.bias)
        self.down_proj = Linear(plan.d_ff, d_model, bias=plan.bias)

    def forward(self, x: Tensor) -> Tensor:
        gate = None if self.gate_proj is None else self.gate_proj(x)
        return self.down_proj(activate(self.plan, self.up_proj(x), gate))

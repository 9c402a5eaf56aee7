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


class Xielu(nn.Module):
    """xIELU with trained a_p and a_n (Huang and Schlag 2024, arXiv 2411.13010): a_p x^2 + b x above 0, a_n (e^x - 1 - x) + b x below."""

    BETA = 0.5

    def __init__(self) -> None:
        super().__init__()
        # Before softplus, which keeps a_p above 0 and a_n above b.
        self.alpha_p = nn.Parameter(torch.empty(1))
        self.alpha_n = nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor) -> Tensor:
        p = F.softplus(self.alpha_p.to(x.dtype))
        n = self.BETA + F.softplus(self.alpha_n.to(x.dtype))
        # Clamped, as the gradient of an exponential that `where` leaves out must be finite.
        return torch.where(x > 0, p * x * x, (torch.expm1(x.clamp(max=0)) - x) * n) + self.BETA * x


def swiglu_clamped(gate: Tensor, up: Tensor) -> Tensor:
    """gpt-oss (arXiv 2508.10925, section 2.1, and its reference code): clamped at 7, and up shifted by 1."""
    return quick_gelu(gate.clamp(max=7.0)) * (up.clamp(min=-7.0, max=7.0) + 1)


def activate(plan: MlpPlan, up: Tensor, gate: Tensor | None, own: Xielu | None = None) -> Tensor:
    """act(up), or act(gate) * up. own: the activation, if it has weights."""
    if plan.activation == "swiglu_clamped":
        return swiglu_clamped(gate, up)
    act = ACTIVATIONS[plan.activation] if own is None else own
    return act(up) if gate is None else act(gate) * up


class Mlp(nn.Module):
    """down(act(up x)), or gated: down(act(gate x) * up x). x: [..., D] -> [..., D]."""

    def __init__(self, plan: MlpPlan, d_model: int) -> None:
        super().__init__()
        self.plan = plan
        self.gate_proj = Linear(d_model, plan.d_ff, bias=plan.bias) if plan.gated else None
        self.up_proj = Linear(d_model, plan.d_ff, bias=plan.bias)
        self.down_proj = Linear(plan.d_ff, d_model, bias=plan.bias)
        self.act = Xielu() if plan.has_weights else None

    def forward(self, x: Tensor) -> Tensor:
        gate = None if self.gate_proj is None else self.gate_proj(x)
        return self.down_proj(activate(self.plan, self.up_proj(x), gate, self.act))

"""RMSNorm and LayerNorm over the last dim, with every option of NormPlan."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modcalc.spec.plan import NormPlan


class Norm(nn.Module):
    """x: [..., width], or [..., groups, width] where each of `groups` heads has a weight of its own.

    rmsnorm: x / sqrt(mean(x^2) + eps) (Zhang and Sennrich 2019, arXiv 1910.07467); layernorm: Ba et al. 2016 (1607.06450).
    torch computes both in fp32 for half-precision inputs.
    """

    def __init__(self, plan: NormPlan) -> None:
        super().__init__()
        self.plan = plan
        shape = (plan.groups, plan.width) if plan.groups > 1 else (plan.width,)
        self.weight = nn.Parameter(torch.empty(shape)) if plan.weight else None
        self.bias = nn.Parameter(torch.empty(shape)) if plan.bias else None

    def forward(self, x: Tensor) -> Tensor:
        p = self.plan
        weight = self.weight if self.weight is None or not p.unit_offset else 1 + self.weight
        # The fused kernels take one weight for all heads; the others are applied after.
        fused = p.groups == 1
        inside = weight if fused else None
        if p.kind == "rmsnorm":
            x = F.rms_norm(x, (p.width,), inside, p.eps)
            fused_bias = False
        else:
            x = F.layer_norm(x, (p.width,), inside, self.bias if fused else None, p.eps)
            fused_bias = fused
        if weight is not None and not fused:
            x = x * weight
        return x if self.bias is None or fused_bias else x + self.bias

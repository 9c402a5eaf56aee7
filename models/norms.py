"""RMSNorm and LayerNorm over the last dim, with every option of NormPlan."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modcalc.spec.plan import NormPlan


class Norm(nn.Module):
    """x: [..., width], or [..., groups, width] where each of `groups` heads has a weight of its own.

    rmsnorm: x / sqrt(mean(x^2) + eps) (Zhang and Sennrich 2019, arXiv 1910.07467); layernorm: Ba et al. 2016 (1607.06450).
    torch computes both in fp32 for half-precision inputs. With unit_offset the weight is 1 + w, formed in the input's type (the transformers
    library forms Gemma's in fp32).
    """

    def __init__(self, plan: NormPlan) -> None:
        super().__init__()
        self.plan = plan
        shape = (plan.groups, plan.width) if plan.groups > 1 else (plan.width,)
        self.weight = nn.Parameter(torch.empty(shape)) if plan.weight else None
        self.bias = nn.Parameter(torch.empty(shape)) if plan.bias else None

    def forward(self, x: Tensor) -> Tensor:
        p = self.plan
        # Under autocast x may have a lower precision than the weight; otherwise `to` does nothing.
        weight, bias = (w if w is None else w.to(x.dtype) for w in (self.weight, self.bias))
        if weight is not None and p.unit_offset:
            weight = 1 + weight
        # The kernels take one weight for all heads.
        grouped = p.groups > 1
        w, b = (None, None) if grouped else (weight, bias)
        if p.kind == "layernorm":
            y = F.layer_norm(x, (p.width,), w, b, p.eps)
        else:
            y = F.rms_norm(x, (p.width,), w, p.eps)
            y = y if b is None else y + b
        if grouped:
            y = y if weight is None else y * weight
            y = y if bias is None else y + bias
        return y

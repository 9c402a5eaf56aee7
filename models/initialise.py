"""Initial weights, all drawn in one place.

Matrices and embeddings from N(0, 1 / D): what reads a normed residual stream gives unit variance (LeCun et al. 1998, Efficient BackProp, section
4.6), at every width; 0.02, the usual constant, is that of D = 2,500, and slows narrow models. Those that write to the residual stream (o_proj,
down_proj) with a further 1 / sqrt(2 L), as GPT-2 (Radford et al. 2019, section 2.3). Norms are the identity, biases and sinks 0, factors of
experts 1, an activation's weights those that make 0.8 of both of its own. A Mixture-of-Depths router from N(0, 1 / D^2), as the readout that
it is (Yang et al. 2022, arXiv 2203.03466, table 3): a routed block begins close to the identity, and its weight grows where that helps.
"""

import math
import re
from typing import TYPE_CHECKING

import torch
from torch import nn

from .mlp import Xielu
from .norms import Norm
from .routing import Router

if TYPE_CHECKING:
    from .decoder import Decoder

ROUTING = re.compile(r"(?:blocks|recursions)\.\d+\.(?:(router)|(predictor)|(bypass))\.")


@torch.no_grad()
def initialise(model: "Decoder") -> None:
    """Draw every parameter of `model` in place and set buffers to 0; costs nothing on meta.

    In the order of named_parameters(), those of routing last: with one seed, models that differ in routing alone begin alike elsewhere.
    """
    std = 1 / math.sqrt(model.plan.d_model)
    residual = std / math.sqrt(2 * model.plan.n_layers)
    modules = dict(model.named_modules())
    for buffer in model.buffers():
        buffer.zero_()
    for path, p in sorted(model.named_parameters(), key=lambda named: turn(named[0])):
        owner, _, name = path.rpartition(".")
        module = modules[owner]
        if p.is_meta:
            continue
        if name == "factors":
            nn.init.ones_(p)
        elif isinstance(module, Norm):
            nn.init.constant_(p, 0.0 if name == "bias" or module.plan.unit_offset else 1.0)
        elif name in ("bias", "sinks"):
            nn.init.zeros_(p)
        elif isinstance(module, Xielu):
            # Softplus of these makes 0.8 of both, as in the transformers library.
            nn.init.constant_(p, math.log(math.expm1(0.8 - (Xielu.BETA if name == "alpha_n" else 0.0))))
        elif isinstance(module, Router):
            nn.init.normal_(p, std=1 / model.plan.d_model)
        else:
            writes = owner.endswith(("attn.o_proj", "down_proj")) and "predictor" not in owner
            nn.init.normal_(p, std=residual if writes else std)


def turn(path: str) -> int:
    """0 of what a dense model has too, then routers, predictors, ways around."""
    found = ROUTING.match(path)
    return found.lastindex if found else 0

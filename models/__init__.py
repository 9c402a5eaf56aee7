"""Torch models built from a Plan: dense and Mixture-of-Depths decoders, their losses, and sampling."""

from .cache import Cache
from .decoder import Decoder, Output
from .losses import auxiliary, cross_entropy, objective, training_loss
from .routing import CausalRouting, Routing
from .sampling import causal_forward, decode, generate, prefill

__all__ = [
    "Cache",
    "CausalRouting",
    "Decoder",
    "Output",
    "Routing",
    "auxiliary",
    "causal_forward",
    "cross_entropy",
    "decode",
    "generate",
    "objective",
    "prefill",
    "training_loss",
]

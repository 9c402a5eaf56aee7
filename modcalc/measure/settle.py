"""The first step of a process, taken by a model of no interest."""

from functools import cache

import torch

from modcalc.measure.build import build
from modcalc.measure.records import Mode, Settings
from modcalc.measure.steps import build_step
from modcalc.spec.schema import Attention, Mlp, Spec

SMALL = Spec(name="small", vocab_size=1024, seq_len=128, d_model=128, n_layers=1, attention=Attention(n_heads=2), mlp=Mlp(ratio=4))


@cache
def settle(mode: Mode, compile: bool) -> None:
    """Load what a process loads with its first step on the CPU (libraries, threads, the optimizer, the compiler), so that no model's
    resident set counts it.
    """
    context = 8 if mode == "decode" else 0
    length = 1 if mode == "decode" else SMALL.seq_len
    settings = Settings(mode=mode, batch=1, seq_len=length, context=context, dtype="fp32", compile=compile, cuda_graph=False)
    step = build_step(build(SMALL), settings, torch.device("cpu"))
    for _ in range(2):
        step.prepare()
        step.run()

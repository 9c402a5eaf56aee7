"""The fewest bytes that a step moves, against the tensors that the modules of real models read and write."""

from collections import Counter
from itertools import count

import pytest

pytest.importorskip("torch")

import torch
from hypothesis import HealthCheck, given, settings
from modcalc.models import Cache, Decoder, decode, prefill
from modcalc.models.attention import Core
from modcalc.models.moe import ExpertLinear
from modcalc.models.norms import Norm
from strategies import specs
from test_sampling import tokens_of
from torch import Tensor, nn
from variants import LATENT, spec_of

from modcalc import account, build
from modcalc.cost.account import Report
from modcalc.cost.roofline import elements_moved
from modcalc.spec.schema import Spec

COUNTED = (nn.Linear, nn.Embedding, Norm, Core, ExpertLinear)


def billed(report: Report) -> Counter[str]:
    """Module path -> elements, but for gather, scatter and other pointwise work, which no module of its own does."""
    found: Counter[str] = Counter()
    for op in report.rows:
        if op.kind != "pointwise":
            for path in op.paths():
                found[path] += elements_moved(op, report.work.sampling) / op.repeat
    return +found


def elements(module: nn.Module, args: tuple[Tensor, ...], out: Tensor, absorbed: bool) -> int:
    """That one call reads and writes, no tensor more than once."""
    x = args[0]
    if isinstance(module, Core):
        q, k, v = args[:3]
        return q.numel() + k.numel() + (0 if absorbed else v.numel()) + out.numel()
    if isinstance(module, nn.Embedding):
        return 2 * out.numel()
    weight = 0 if isinstance(module, Norm) else module.weight.numel()
    if isinstance(module, ExpertLinear):  # no more experts than there are rows for
        weight = module.weight[0].numel() * min(len(module.weight), x.numel() // x.shape[-1])
    return x.numel() + weight + out.numel()


class Watched:
    """While it is open: module path -> elements that the model's modules moved. absorbed: values are a part of the keys that caches hold."""

    def __init__(self, model: Decoder, absorbed: bool = False) -> None:
        self.model, self.absorbed, self.found = model, absorbed, Counter()

    def __enter__(self) -> Counter[str]:
        self.hooks = [
            module.register_forward_hook(lambda m, args, out, path=path: self.found.update({path: elements(m, args, out, self.absorbed)}))
            for path, module in self.model.named_modules()
            if isinstance(module, COUNTED)
        ]
        return self.found

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()


def test_every_module_of_random_specs_moves_what_is_billed() -> None:
    batch = count()

    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(specs())
    def check(spec: Spec) -> None:
        B = 1 + next(batch) % 2
        model = build(spec).eval()
        with torch.no_grad(), Watched(model) as found:
            model(torch.zeros(B, spec.seq_len, dtype=torch.int64))
        assert found == billed(account(spec, batch=B))

    check()


KINDS = {
    "plain": {"attention": {"n_heads": 2}},
    "grouped": {"attention": {"n_heads": 4, "n_kv_heads": 2}},
    "window": {"attention": {"n_heads": 2, "window": 3}},
    "latent": {"attention": {"n_heads": 4, "latent": LATENT}},
    "learned positions": {"positions": {"kind": "learned"}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_decode_step_moves_what_is_billed(kind: str) -> None:
    spec = spec_of(KINDS[kind])
    model = build(spec).eval()
    tokens, cache = tokens_of(model, 2, 9), Cache(model.plan, 2)
    prefill(model, tokens[:, :7], cache)
    for context in (7, 8):
        with torch.no_grad(), Watched(model, absorbed=kind == "latent") as found:
            decode(model, tokens[:, context], cache)
        expected = billed(account(spec, batch=2, phase="decode", context=context))
        for path in [path for path in expected if path.endswith("attn.kv_up")]:  # its parts move into queries and values, no call of its own
            del expected[path]
        assert found == expected

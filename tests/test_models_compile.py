"""torch.compile: the training forward of every variant, losses included, is one graph of static shapes."""

import os
import shutil
from collections.abc import Callable

import pytest
import torch
from modcalc.models import Decoder, fusible, training_loss
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from variants import MOE, VARIANTS, model_of, short_of, spec_of

Step = Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]


def step_of(model: Decoder) -> Step:
    return lambda tokens: training_loss(model, tokens[:, :-1], tokens[:, 1:])


def tokens(name: str, seed: int = 3) -> Tensor:
    """One more a sequence than the model is for: inputs and targets."""
    return torch.randint(20, (2, spec_of(name).seq_len + 1), generator=torch.Generator().manual_seed(seed))


def compiled(step: Step, backend: str | Callable) -> Step:
    torch._dynamo.reset()
    return torch.compile(step, fullgraph=True, dynamic=False, backend=backend)


# What stands in a dense model alone stands in a routed one too.
ROUTED = [name for name in VARIANTS if name == "dense" or "mod" in VARIANTS[name] or "moe" in VARIANTS[name]]


@pytest.mark.parametrize("name", ROUTED)
def test_the_training_forward_is_one_graph(name: str) -> None:
    step, counter = step_of(model_of(short_of(name))), CompileCounter()
    fast = compiled(step, counter)
    for seed in (3, 4):  # other tokens, other decisions, the same graph
        found = []
        for run in (step, fast):
            torch.manual_seed(5)
            loss, parts = run(tokens(name, seed))
            found.append({"loss": loss} | parts)
        torch.testing.assert_close(*found)
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("attention", "kind", "graphs"), [({}, "rotary", 1), ({"window": 3}, "rotary", 1), ({"window": [3, 3, 3, None]}, "rotary", 2), ({}, "alibi", 1)]
)
def test_equal_blocks_share_one_graph(attention: dict, kind: str, graphs: int) -> None:
    model, counter = model_of({"attention": {"n_heads": 4, **attention}, "positions": {"kind": kind}}), CompileCounter()
    torch._dynamo.reset()
    for block in model.blocks:
        block.forward = torch.compile(block.forward, fullgraph=True, dynamic=False, backend=counter)
    model(tokens("dense")[:, :-1])
    assert counter.frame_count == graphs


def gradients(model: Decoder, step: Step) -> dict[str, Tensor | None]:
    model.zero_grad()
    torch.manual_seed(5)
    step(tokens("dense"))[0].backward()
    return {path: p.grad for path, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("name", "fusing"),
    [
        ("mod, predictor", False),
        ("moe, own norms", False),
        ("mod, expert choice", False),
        ("mod, predictor", True),
        ("mod, bypass", True),
        ("mod, latent", True),
        ("recursions, threshold", True),
    ],
)
def test_their_backward_compiles(name: str, fusing: bool) -> None:
    model = model_of({**VARIANTS[name], "n_layers": 1 if name.startswith("recursions") else 2})
    if fusing:
        fusible.allow(model)
    step = step_of(model)
    torch.testing.assert_close(gradients(model, compiled(step, "aot_eager")), gradients(model, step))


@pytest.mark.parametrize("name", ["mod, post", "mod, all keys, one token", "mod, mlp", "mod, threshold, bypass", "mod, bypass"])
def test_without_gradients_blocks_compute_the_same(name: str) -> None:
    """There a compiled scatter writes into the block's input, which nothing may read again."""
    model = model_of(short_of(name))
    found = []
    for fusing in (False, True):
        if fusing:
            fusible.allow(model)
            for block in model.blocks:
                block.forward = compiled(block.forward, "aot_eager")
        torch.manual_seed(5)
        with torch.no_grad():
            found.append(model(tokens(name)[:, :-1]).logits)
    torch.testing.assert_close(*found)


@pytest.mark.skipif(not any(map(shutil.which, (os.environ.get("CXX") or "g++", "clang++"))), reason="torch.compile needs a C++ compiler")
@pytest.mark.skipif(torch.__version__ < "2.7", reason="torch 2.6 adds only some of the equal rows in a compiled scatter on the CPU")
def test_they_compile_to_machine_code() -> None:
    """Routing by threshold with a way around and dropless experts inside: most of what a compiler could stumble over."""
    mod = dict(capacity=0.5, selection="threshold", bypass=dict(d_ff=3), predictor_width=3, every=1)
    model = model_of(dict(n_layers=1, mod=mod, moe=MOE))
    fusible.allow(model)
    step = step_of(model)
    torch.testing.assert_close(gradients(model, compiled(step, "inductor")), gradients(model, step), rtol=1e-4, atol=1e-5)

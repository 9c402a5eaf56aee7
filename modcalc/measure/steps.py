"""The steps that are timed: forward, train, prefill and decode of a built model, with new random tokens each time."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from modcalc.cost.workload import SAMPLING
from modcalc.measure.compiling import compile_blocks, compiled
from modcalc.measure.records import Mode, Settings
from modcalc.measure.steptime import Step
from modcalc.spec.plan import Plan

if TYPE_CHECKING:
    from modcalc.models.decoder import Decoder

LEARNING_RATE = 1e-4  # small: the loss stays finite however long a measurement runs

Wrap = Callable[[nn.Module], nn.Module]


class Tokens:
    """A fixed buffer [B, T] int64 (CUDA graphs replay fixed addresses), filled with new uniform tokens below `vocab` each time."""

    def __init__(self, batch: int, length: int, vocab: int, device: torch.device, seed: int) -> None:
        self.vocab = vocab
        self.generator = torch.Generator(device).manual_seed(seed)
        self.buffer = torch.empty(batch, length, dtype=torch.int64, device=device)
        self.fill()

    def fill(self) -> None:
        self.buffer.random_(0, self.vocab, generator=self.generator)


class ForwardStep:
    """Logits of B sequences of T tokens, without gradients."""

    def __init__(self, model: "Decoder", tokens: Tokens, *, wrap: Wrap | None = None) -> None:
        self.tokens = tokens
        self.model = wrap(model.eval()) if wrap else model.eval()
        self.loss: Tensor | None = None

    def prepare(self) -> None:
        self.tokens.fill()

    def run(self) -> None:
        with torch.no_grad():
            self.model(self.tokens.buffer)


class TrainStep:
    """Forward with the real loss (cross-entropy and the auxiliary ones), backward, and a fused AdamW step.

    Weights, gradients and AdamW's two moments are of the model's dtype. Targets are the tokens one place on.
    """

    def __init__(self, model: "Decoder", tokens: Tokens, *, wrap: Wrap | None = None, compile: bool = False, capturable: bool = False) -> None:
        from modcalc.models.losses import objective

        self.model, self.tokens = model.train(), tokens
        self.wrapped = wrap(model) if wrap else model
        self.optimizer = torch.optim.AdamW(self.wrapped.parameters(), lr=LEARNING_RATE, fused=True, capturable=capturable)
        self.objective = compiled(objective) if compile else objective
        self.loss: Tensor | None = None

    def prepare(self) -> None:
        self.tokens.fill()

    def run(self) -> None:
        inputs, targets = self.tokens.buffer[:, :-1], self.tokens.buffer[:, 1:]
        loss = self.loss_of(inputs, targets)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # at the end: between steps a model holds no gradients while the other runs
        self.loss = loss.detach()  # a graph kept alive would tie the next step to this one's stream

    def loss_of(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """What is minimised: a scalar from tokens and targets, both [B, T]."""
        return self.objective(self.model.plan, self.wrapped(inputs), targets)[0]


class GraphStep:
    """A step captured as a CUDA graph when it first runs, and replayed: what it costs without the host's launches."""

    def __init__(self, step: Step, device: torch.device) -> None:
        self.step, self.device = step, device
        self.graph: torch.cuda.CUDAGraph | None = None

    @property
    def loss(self) -> Tensor | None:
        return self.step.loss

    def prepare(self) -> None:
        self.step.prepare()

    def run(self) -> None:
        if self.graph is None:
            self.graph = self._captured()
        self.graph.replay()

    def _captured(self) -> "torch.cuda.CUDAGraph":
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This instance was constructed with capturable")  # it is captured afterwards
            for _ in range(3):  # compilation, library handles and optimizer state must exist before capture
                self.step.run()
                self.step.prepare()
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step.run()
        return graph


@contextmanager
def uncompiled(step: Step) -> Iterator[Step]:
    """The step as plain eager work of the same model and optimizer: what a profiler can tell apart by module."""
    with torch.compiler.set_stance("force_eager"):
        yield step.step if isinstance(step, GraphStep) else step


def waits(plan: Plan, mode: Mode) -> bool:
    """Whether the host needs to know within a step what the device found: how many tokens pass, or come to each expert."""
    return plan.dropless or (mode in SAMPLING and (plan.is_mod or bool(plan.experts)))  # sampling has no buffers


def build_step(model: "Decoder", settings: Settings, device: torch.device, *, wrap: Wrap | None = None, seed: int = 0) -> Step:
    """The step of `model` that the settings ask for."""
    vocab = model.plan.embedding.vocab_size
    if settings.compile:
        compile_blocks(model)
    if settings.mode == "train":
        tokens = Tokens(settings.batch, settings.seq_len + 1, vocab, device, seed)
        step = TrainStep(model, tokens, wrap=wrap, compile=settings.compile, capturable=settings.cuda_graph)
    elif settings.mode == "forward":
        step = ForwardStep(model, Tokens(settings.batch, settings.seq_len, vocab, device, seed), wrap=wrap)
    else:
        from modcalc.measure.sampling_steps import sampling_step

        step = sampling_step(model, settings, device, seed)
    return GraphStep(step, device) if settings.cuda_graph else step

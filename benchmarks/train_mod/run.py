"""Training one arm with one seed, in intervals: each ends with a validation, a checkpoint and a line in the results."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from modcalc.models.losses import cross_entropy, objective
from torch import Tensor

from modcalc import build
from modcalc.errors import UsageError, reason
from modcalc.measure.compiling import compile_blocks, compiled

from .arms import Arm, Preset
from .data import Corpus

WEIGHT_DECAY, BETAS, CLIP = 0.1, (0.9, 0.95), 1.0
WARM = 3  # steps before a capture: compiled code, library handles and optimizer states must be there
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def learning_rate(p: Preset, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to a tenth."""
    warm = min(1.0, (step + 1) / p.warmup)
    return p.learning_rate * warm * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))


class Run:
    """One arm and seed. Resumes from its checkpoint; every step draws from generators seeded by (seed, step), so a
    resumed run is the run that was never interrupted. On a GPU a step is compiled and captured as a CUDA graph: a model this
    small would wait for its launches.
    """

    def __init__(self, p: Preset, arm: Arm, seed: int, corpus: Corpus, work: Path, device: str, capture: bool = True) -> None:
        self.p, self.arm, self.seed, self.corpus, self.device = p, arm, seed, corpus.to(device), device
        self.capture = capture and device == "cuda"
        self.checkpoint = work / f"{arm.name}-{seed}.pt"
        self.model = build(arm.spec, device=device, seed=seed)
        rate = torch.tensor(p.learning_rate, device=device) if self.capture else p.learning_rate
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=rate, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True, capturable=self.capture
        )
        # Each by its own norm: what a predictor learns behind its stop-gradient must not shorten the steps of the model.
        named = list(self.model.named_parameters())
        parts = [[p for name, p in named if (".predictor." in name) == predicts] for predicts in (False, True)]
        self.clipped = [part for part in parts if part]
        self.objective = objective
        if self.capture:
            torch.compiler.reset()
            compile_blocks(self.model)
            self.objective = compiled(objective)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.done = 0  # steps since the start or the resumption
        self.batch = torch.empty(2, p.batch_size, p.seq_len, dtype=torch.int64, device=device)
        self.step = 0
        self.points: list[dict] = []
        if self.checkpoint.exists():
            state = self._held()
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.points = state["step"], json.loads(state["points"])

    def _held(self) -> dict:
        try:
            return torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        except Exception as wrong:  # whatever an unpickler stumbles over
            raise UsageError(f"{self.checkpoint}: cannot be read ({reason(wrong)}); if it is damaged, remove it: that run begins anew") from None

    @property
    def finished(self) -> bool:
        return self.step >= self.arm.steps

    @property
    def train_flops(self) -> int:
        """FLOPs spent so far."""
        return self.arm.train_flops(self.p.batch_size, self.step)

    def intervals(self) -> Iterator[dict]:
        """Train on; yields the point of each interval once it is safely on disk."""
        while not self.finished:
            end = min(self.arm.steps, (self.step // self.p.interval + 1) * self.p.interval)
            losses = []
            while self.step < end:
                losses.append(self.train_step())
                self.step += 1
            self.points.append(
                {
                    "arm": self.arm.name,
                    "seed": self.seed,
                    "step": self.step,
                    "train_flops": self.train_flops,
                    "train_loss": torch.stack(losses).mean().item(),
                    "held_out_loss": self.held_out_loss(),
                }
            )
            self.save()
            yield self.points[-1]

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, DTYPES[self.p.dtype], enabled=self.p.dtype != "fp32")

    def train_step(self) -> Tensor:
        """One optimizer step; returns the cross-entropy in nats per token, not waited for."""
        p = self.p
        torch.manual_seed(self.seed * 1_000_003 + self.step)  # noise of the random router
        for buffer, new in zip(self.batch, self.corpus.batch(p.batch_size, p.seq_len, self.seed, self.step), strict=True):
            buffer.copy_(new)
        rate = learning_rate(p, self.step, self.arm.steps)
        for group in self.optimizer.param_groups:
            if self.capture:
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        if not self.capture:
            self.update()
        elif self.done < WARM:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                self.update()
            torch.cuda.current_stream().wait_stream(aside)
        else:
            if self.graph is None:
                self.graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graph):
                    self.update()
            self.graph.replay()
        self.done += 1
        return self.loss.clone()

    def update(self) -> None:
        """Forward, backward and optimizer step on what lies in `batch`; `loss` is its cross-entropy."""
        tokens, targets = self.batch
        self.model.train()
        self.optimizer.zero_grad()
        with self.autocast():
            output = self.model(tokens)
        loss, parts = self.objective(self.model.plan, output, targets)
        loss.backward()
        for part in self.clipped:
            torch.nn.utils.clip_grad_norm_(part, CLIP)
        self.optimizer.step()
        self.loss = parts["cross_entropy"]

    @torch.no_grad()
    @torch.compiler.set_stance("force_eager")
    def held_out_loss(self) -> float:
        """Mean cross-entropy, nats per byte, teacher-forced with the training-time routing."""
        self.model.eval()
        torch.manual_seed(self.seed)
        losses = []
        batches = self.corpus.held_out_batches(self.p.batch_size, self.p.seq_len, self.p.held_out_sequences)
        for tokens, targets in batches:
            with self.autocast():
                output = self.model(tokens)
            losses.append(cross_entropy(output, targets).item() * len(tokens))
        return sum(losses) / self.p.held_out_sequences

    def save(self) -> None:
        """Replace the checkpoint as a whole: a run killed here keeps the old one."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step, "points": json.dumps(self.points)}
        part = self.checkpoint.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.checkpoint)

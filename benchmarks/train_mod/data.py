"""Text that every Python installation has: the source of its standard library, as bytes."""

import sys
import sysconfig
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

VOCAB = 256
HELD_OUT = 20  # one file in so many, chosen by a hash of its name


@dataclass(frozen=True, slots=True)
class Corpus:
    """train, held_out: [n] uint8, whole files end to end. description: what a results file says of it."""

    train: Tensor
    held_out: Tensor
    description: dict

    def to(self, device: str) -> "Corpus":
        """The same on a device, so that a batch need not travel there."""
        return replace(self, train=self.train.to(device), held_out=self.held_out.to(device))

    def batch(self, batch_size: int, seq_len: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """tokens, targets [B, T] int64 of training step `step`; the same for the same (seed, step), so a run can resume anywhere."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        start = torch.randint(len(self.train) - seq_len, (batch_size, 1), generator=generator)
        window = windows(self.train, start, seq_len)
        return window[:, :-1], window[:, 1:]

    def held_out_batches(self, batch_size: int, seq_len: int, sequences: int) -> list[tuple[Tensor, Tensor]]:
        """Evenly spaced sequences of the held-out files, the same for every model."""
        start = torch.linspace(0, len(self.held_out) - seq_len - 1, sequences).long()[:, None]
        window = windows(self.held_out, start, seq_len)
        return [(w[:, :-1], w[:, 1:]) for w in window.split(batch_size)]


def windows(text: Tensor, start: Tensor, seq_len: int) -> Tensor:
    """[B, seq_len + 1] int64: the bytes from each start on, [B, 1], and one more for the last target."""
    return text[start.to(text.device) + torch.arange(seq_len + 1, device=text.device)].long()


def standard_library() -> Corpus:
    """Every .py file of the standard library but its tests and installed packages, split by a hash of the file's name."""
    root = Path(sysconfig.get_path("stdlib"))
    skip = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}
    parts: dict[bool, list[bytes]] = {True: [], False: []}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if skip.isdisjoint(name.parts):
            held_out = int(sha256(name.as_posix().encode()).hexdigest(), 16) % HELD_OUT == 0
            parts[held_out].append(path.read_bytes())
    train, held_out = (b"\0".join(parts[key]) for key in (False, True))
    description = {
        "text": "source of the standard library, tests left out",
        "python": sys.version.split()[0],
        "train_files": len(parts[False]),
        "train_bytes": len(train),
        "held_out_files": len(parts[True]),
        "held_out_bytes": len(held_out),
        "sha256": sha256(train + held_out).hexdigest(),
    }
    return Corpus(*(torch.frombuffer(bytearray(text), dtype=torch.uint8) for text in (train, held_out)), description)

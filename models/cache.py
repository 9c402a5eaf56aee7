"""Key/value caches for sampling: each block keeps what it has seen, a routed block only the tokens that it routed, unless all bring keys."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from modcalc.errors import UsageError
from modcalc.spec.plan import Plan
from modcalc.units import whole_number

Place = tuple[int, int]  # (recursion or 0, block)


class Rows(NamedTuple):
    """Some rows of a batch, ascending: [R] int64 on the host, for sizes, and the same on the device, for work. A host tensor as an
    index of a device's would be copied at each use, and the host would wait for it.
    """

    host: Tensor
    there: Tensor

    @classmethod
    def of(cls, host: Tensor, device: torch.device) -> "Rows":
        return cls(host, host.to(device, non_blocking=True))

    def pick(self, some: "Rows") -> "Rows":
        """Those of these rows that `some` counts."""
        return Rows(self.host[some.host], self.there[some.there])


class LayerCache:
    """What attention keeps of one block's tokens, by row of the batch; rows may differ in how many they hold.

    parts: keys [B, K, size, N] and values [B, K, size, N_v], or latent attention's one part [B, 1, size, kv_rank + rope].
    positions: [B, size] original positions. count: [B] tokens seen, on the host, so that nobody waits for the device to learn
    sizes; the last `limit` (an attention window) are held. Room grows by doubling with the fullest row.
    all_near: whether these are what the window of the newest token holds, as no token in between goes another way.
    """

    def __init__(self, batch: int, limit: int | None, all_near: bool = False) -> None:
        self.batch, self.limit, self.all_near = batch, limit, all_near
        self.count = torch.zeros(batch, dtype=torch.int64, device="cpu")
        self.parts: tuple[Tensor, ...] = ()
        self.positions: Tensor | None = None

    def add(self, parts: Sequence[Tensor], positions: Tensor, rows: Rows | None = None, valid: Tensor | None = None) -> None:
        """Keep new tokens of the batch rows `rows` [R] (None: all).

        parts: [R, K, T, …] each; positions: [1 or R, T]; valid: [R, T] bool, valid tokens first (None: all are).
        """
        R, _, T = parts[0].shape[:3]
        if not self.parts:
            self.parts = tuple(x.new_zeros(self.batch, x.shape[1], 0, x.shape[3]) for x in parts)
            self.positions = positions.new_zeros(self.batch, 0)
        least, most = map(int, self.count.aminmax())
        turn = self.limit or most + T  # a window's places are taken in turn
        if rows is None and valid is None and least == most and most % turn + T <= turn:
            # All rows alike: one slice.
            self._grow(most + T)
            start = most % turn
            for held, x in zip(self.parts, parts, strict=True):
                held[:, :, start : start + T] = x
            self.positions[:, start : start + T] = positions
            self.count += T
            return
        rows = torch.arange(R, device="cpu") if rows is None else rows.host
        before = self.count[rows]
        new = torch.full_like(before, T) if valid is None else valid.sum(1).cpu()
        self.count[rows] = before + new
        self._grow(int(self.count.max()))
        place = torch.arange(T, device="cpu")
        r, t = ((place < new[:, None]) & (place >= new[:, None] - (self.limit or T))).nonzero(as_tuple=True)
        at = torch.stack([rows[r], (before[r] + t) % turn, r, t])
        row, slot, r, t = at.to(self.positions.device, non_blocking=True)
        for held, x in zip(self.parts, parts, strict=True):
            held[row, :, slot] = x[r, :, t]
        self.positions[row, slot] = positions.expand(R, T)[r, t]

    def read(self, rows: Rows | None = None) -> tuple[tuple[Tensor, ...], Tensor, Tensor | None]:
        """Parts [R, K, S, …], positions [R, S] and which of them are there [R, S] bool (None: all), S being the fullest row's tokens.

        All rows are read where they lie; some rows are copied.
        """
        held = self.held if rows is None else self.held[rows.host]
        least, S = map(int, held.aminmax())
        device = self.positions.device
        visible = None if least == S else torch.arange(S, device=device) < held[:, None].to(device, non_blocking=True)
        parts, positions = tuple(x[:, :, :S] for x in self.parts), self.positions[:, :S]
        if rows is not None:
            parts, positions = tuple(x[rows.there] for x in parts), positions[rows.there]
        return parts, positions, visible

    @property
    def size(self) -> int:
        """Tokens of a row for which there is room now."""
        return self.positions.shape[1]

    @property
    def held(self) -> Tensor:
        """[B] tokens held now."""
        return self.count if self.limit is None else self.count.clamp(max=self.limit)

    @property
    def used_bytes(self) -> int:
        """Bytes of the keys and values held, without spare room."""
        return int(self.held.sum()) * sum(x.shape[1] * x.shape[3] * x.element_size() for x in self.parts)

    def reserve(self, size: int) -> None:
        """Room for `size` tokens of each row and no more, where `add` would double it. Something has been added before."""
        more = min(size, self.limit or size) - self.size
        if more <= 0:
            return
        self.parts = tuple(torch.cat([x, x.new_zeros(*x.shape[:2], more, x.shape[3])], dim=2) for x in self.parts)
        self.positions = torch.cat([self.positions, self.positions.new_zeros(self.batch, more)], dim=1)

    def _grow(self, size: int) -> None:
        if size > self.size:
            self.reserve(max(size, 2 * self.size))


class Cache:
    """The caches of every block of a plan for `batch` sequences; `length` tokens of each have been seen. Raises UsageError for no sequence."""

    def __init__(self, plan: Plan, batch: int) -> None:
        if whole_number(batch, "batch") < 1:
            raise UsageError(f"batch {batch}: at least 1 sequence is needed")
        self.plan, self.batch, self.length = plan, batch, 0
        rec = plan.recursion
        # A query sees itself and at most window - 1 before it; its own key is written before it reads.
        self.layers: dict[Place, LayerCache] = {}
        for i, block in enumerate(plan.blocks):
            inside = rec is not None and rec.holds(i)
            all_near = not inside and block.keys_of_all and not block.attention.chunked
            for step in range(len(rec.routings) if inside else 1):
                self.layers[step, i] = LayerCache(batch, block.attention.window, all_near)

    @property
    def used_bytes(self) -> int:
        """Bytes of all keys and values held."""
        return sum(layer.used_bytes for layer in self.layers.values())

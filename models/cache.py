"""Key/value caches for sampling: each block keeps what it has seen, a routed block only the tokens that it routed."""

import torch
from torch import Tensor

from modcalc.spec.plan import Plan

Place = tuple[int, int]  # (recursion or 0, block)


class LayerCache:
    """Keys and values of one block, by row of the batch; rows may differ in how many they hold.

    first: [B, K, size, N] keys (latent attention: [B, 1, size, kv_rank]), second: [B, K, size, N_v] values (rope keys).
    positions: [B, size] original positions. count: [B] tokens seen; the last `limit` (an attention window) are held.
    Room grows by doubling with the fullest row.
    """

    def __init__(self, batch: int, limit: int | None) -> None:
        self.batch, self.limit = batch, limit
        self.first: Tensor | None = None
        self.second: Tensor | None = None
        self.positions: Tensor | None = None
        self.count: Tensor | None = None

    def add(self, first: Tensor, second: Tensor, positions: Tensor, rows: Tensor, valid: Tensor | None = None) -> None:
        """first, second: [R, K, T, …] of the batch rows `rows` [R]; positions: [1 or R, T]; valid: [R, T] bool, valid tokens first."""
        R, K, T = first.shape[:3]
        if self.first is None:
            self.first, self.second = (x.new_zeros(self.batch, K, 0, x.shape[-1]) for x in (first, second))
            self.positions = positions.new_zeros(self.batch, 0)
            self.count = positions.new_zeros(self.batch)
        before = self.count[rows]
        new = torch.full_like(before, T) if valid is None else valid.sum(1)
        self._grow(int((before + new).max()) if R else 0)
        place = torch.arange(T, device=rows.device)
        keep = (place < new[:, None]) & (place >= new[:, None] - (self.limit or T))
        r, t = keep.nonzero(as_tuple=True)
        slot = before[r] + t
        slot = slot if self.limit is None else slot % self.limit
        self.first[rows[r], :, slot] = first[r, :, t]
        self.second[rows[r], :, slot] = second[r, :, t]
        self.positions[rows[r], slot] = positions.expand(R, T)[r, t]
        self.count[rows] = before + new

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """first, second, positions [R, S] and visible [R, S] bool of these rows, S being the fullest row's tokens."""
        held = self.held[rows]
        S = int(held.max())
        visible = torch.arange(S, device=rows.device) < held[:, None]
        return self.first[rows, :, :S], self.second[rows, :, :S], self.positions[rows, :S], visible

    @property
    def held(self) -> Tensor:
        """[B] tokens held now."""
        return self.count if self.limit is None else self.count.clamp(max=self.limit)

    @property
    def used_bytes(self) -> int:
        """Bytes of the keys and values held, without spare room."""
        if self.first is None:
            return 0
        per_token = sum(x.shape[1] * x.shape[3] * x.element_size() for x in (self.first, self.second))
        return int(self.held.sum()) * per_token

    def _grow(self, size: int) -> None:
        size = size if self.limit is None else min(size, self.limit)
        have = self.first.shape[2]
        if size <= have:
            return
        size = max(size, 2 * have)
        self.first, self.second = (torch.cat([x, x.new_zeros(*x.shape[:2], size - have, x.shape[3])], dim=2) for x in (self.first, self.second))
        self.positions = torch.cat([self.positions, self.positions.new_zeros(self.batch, size - have)], dim=1)


class Cache:
    """The caches of every block of a plan for `batch` sequences; `length` tokens of each have been seen."""

    def __init__(self, plan: Plan, batch: int) -> None:
        self.batch, self.length = batch, 0
        blocks = plan.blocks
        rec = plan.recursion
        places = [(step, i) for i in range(len(blocks)) for step in range(len(rec.routings) if rec and rec.first <= i <= rec.last else 1)]
        # A query sees itself and window - 1 before it; its own key is written before it reads.
        self.layers: dict[Place, LayerCache] = {place: LayerCache(batch, blocks[place[1]].attention.window) for place in places}

    @property
    def used_bytes(self) -> int:
        """Bytes of all keys and values held."""
        return sum(layer.used_bytes for layer in self.layers.values())

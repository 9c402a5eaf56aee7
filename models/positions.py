"""Where tokens stand: original positions, and what attention makes of them (rotary angles, masks, ALiBi)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import wide


class Positions:
    """Original positions of the tokens at hand; a routed block sees those of the tokens that it kept.

    index: [1, T] where all sequences agree, or [B, C]. span: a bound, all positions are < span.
    valid: [B, C] bool where some tokens of a buffer only fill it (they stand last, so no other token sees them), or None.
    sampling: tokens are decided one by one, so nothing may be dropped for want of room.
    Tables that several layers need are made once and kept here for the length of one forward pass.
    """

    def __init__(self, index: Tensor, span: int, valid: Tensor | None = None, sampling: bool = False) -> None:
        self.index, self.span, self.valid, self.sampling = index, span, valid, sampling
        self._made: dict[tuple, object] = {}

    @classmethod
    def of_sequence(cls, length: int, device: torch.device, start: int = 0, sampling: bool = False) -> "Positions":
        """Tokens start, start + 1, … of every sequence."""
        return cls(torch.arange(start, start + length, device=device)[None], start + length, sampling=sampling)

    def pick(self, kept: Tensor, valid: Tensor | None = None) -> "Positions":
        """Positions of the chosen tokens; kept: [B, C] indices into these."""
        return Positions(self.index.expand(kept.shape[0], -1).gather(1, kept), self.span, valid, self.sampling)

    def rotary(self, theta: float, dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin of the rotary angles position * theta ** (-2i / dim), i < dim / 2: [1 or B, T, 1, dim / 2].

        RoFormer, arXiv 2104.09864, section 3.2.2.
        """
        dtype = wide(dtype)
        key = ("rotary", theta, dim, dtype)
        if key not in self._made:
            steps = torch.arange(0, dim, 2, device=self.index.device, dtype=dtype)
            angles = self.index[..., None, None].to(dtype) * theta ** (-steps / dim)
            self._made[key] = (angles.cos(), angles.sin())
        return self._made[key]

    def slopes(self, n_heads: int, dtype: torch.dtype) -> Tensor:
        """[H]: ALiBi's slope of each head (Press et al. 2022, arXiv 2108.12409, section 3): 2 ** (-8 i / H) for H a power of 2.

        Other H take the slopes of the power below, and then every other slope of the power above, as the authors' code does.
        """
        dtype = wide(dtype)
        power = 2 ** math.floor(math.log2(n_heads))
        # Made on the device: a copy from the host cannot be captured in a CUDA graph.
        whole, half = (torch.arange(n, device=self.index.device, dtype=dtype) for n in (power, n_heads - power))
        return 2 ** (-8 / power * torch.cat((whole + 1, half + 0.5)))

    def bias(self, keys: Tensor, n_heads: int, dtype: torch.dtype) -> Tensor:
        """[1 or B, H, T, S] in full precision: ALiBi's -slope * distance to keys at the original positions `keys` [1 or B, S]."""
        return self.slopes(n_heads, dtype)[:, None, None] * (keys[:, None, None, :] - self.index[:, None, :, None])

    def hides(self, window: int | None) -> bool:
        """Whether a window of so many tokens may hide any that stand before."""
        return window is not None and window < self.span

    def mask(self, window: int | None, chunked: bool, n_heads: int, dtype: torch.dtype) -> Tensor:
        """[1 or B, 1 or H, T, T], what is added to the scores of these tokens, query by key: -inf where `hidden` says so, else 0, or with
        n_heads > 0 ALiBi's bias.
        """
        key = ("mask", window, chunked, n_heads, dtype)
        if key not in self._made:
            T = self.index.shape[1]
            made = additive(self._hidden(window, chunked), self.bias(self.index, n_heads, dtype) if n_heads else None, dtype)
            # CUDA's kernels copy a mask, for each layer, whose rows begin at no multiple of 8.
            self._made[key] = F.pad(made, (0, -T % 8))[..., :T] if made.is_cuda and T % 8 else made
        return self._made[key]

    def hidden(self, window: int | None, chunked: bool) -> Tensor:
        """[1 or B, 1, T, T] bool, query by key: True where a key comes later in this order of tokens, or `near` says no."""
        key = ("hidden", window, chunked)
        if key not in self._made:
            self._made[key] = self._hidden(window, chunked)
        return self._made[key]

    def _hidden(self, window: int | None, chunked: bool) -> Tensor:
        T, at = self.index.shape[1], self.index
        hidden = torch.ones(T, T, dtype=torch.bool, device=at.device).triu(1)[None]
        if window is not None:
            hidden = hidden | ~near(at[:, :, None], at[:, None, :], window, chunked)
        return hidden[:, None]

    def hidden_of(self, keys: "Positions", window: int | None, chunked: bool) -> Tensor:
        """[B, 1, T, S] bool, query by key: which of other tokens, `keys`, these may not see: those that stand later, or are not `near`."""
        query, key = self.index[:, None, :, None], keys.index[:, None, None, :]
        hidden = key > query
        return hidden if window is None else hidden | ~near(query, key, window, chunked)


def near(query: Tensor, key: Tensor, window: int, chunked: bool) -> Tensor:
    """Whether a key, no later than the query, lies in its window: at most window - 1 positions back, or in the same chunk of `window`."""
    return query // window == key // window if chunked else query - key < window


def additive(hidden: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """What is added to scores: -inf where `hidden` (bool) says so, else bias, which broadcasts with it (None: 0)."""
    bias = torch.zeros((), dtype=dtype, device=hidden.device) if bias is None else bias
    return torch.where(hidden, float("-inf"), bias).to(dtype)


def rotate(x: Tensor, tables: tuple[Tensor, Tensor], start: int = 0) -> Tensor:
    """Rotary position embedding of dims start … start + r - 1 of x [B, T, H, N], r = 2 * tables' last dim; the others pass.

    Pairs are (i, i + r / 2), as in GPT-NeoX and Llama of the transformers library; computed in the tables' precision.
    """
    cos, sin = tables
    half = cos.shape[-1]
    before, a, b, after = x.split((start, half, half, x.shape[-1] - start - 2 * half), dim=-1)
    turned = [(a * cos - b * sin).to(x.dtype), (b * cos + a * sin).to(x.dtype)]
    return torch.cat([part for part in (before, *turned, after) if part.shape[-1]], dim=-1)

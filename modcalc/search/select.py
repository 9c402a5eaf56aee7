"""The best candidates of a stream, in bounded memory and in an order without chance."""

import numpy as np

from modcalc.search.lattice import Chunk

LARGEST = np.finfo(float).max
NEAR_TIES = 64  # kept beyond k where float64 cannot tell which is better


class Best:
    """The k best by (first, second, place in the lattice), lowest first, in each of `groups`.

    slack: differences of `second` up to this are no difference in float64; candidates so near to the k-th are kept too
    (up to NEAR_TIES of them), for the exact count to decide.
    """

    def __init__(self, k: int, groups: int = 1, slack: float = 0.0) -> None:
        self.k, self.groups, self.slack = k, groups, slack
        self._kept = tuple(np.empty(0, t) for t in (float, float, np.int64, np.int64))  # first, second, index, group
        self._first = np.full(groups, LARGEST)
        self._second = np.full(groups, LARGEST)

    def offer(self, chunk: Chunk, second: np.ndarray, first: np.ndarray | None = None, group: np.ndarray | None = None) -> None:
        """Look at a chunk: arrays [r, m]; inf in `second` is never kept; group: [r, m] numbers below `groups`."""
        at = 0 if group is None else group
        good = second <= self._second[at] + self.slack
        if first is not None:
            good = (first < self._first[at]) & (second <= LARGEST) | (first == self._first[at]) & good
        r, m = np.nonzero(good)
        if r.size == 0:
            return
        found = (
            np.zeros(r.size) if first is None else np.broadcast_to(first, second.shape)[r, m],
            second[r, m],
            chunk.row[r, 0] + chunk.column[0, m],
            np.zeros(r.size, np.int64) if group is None else np.broadcast_to(group, second.shape)[r, m],
        )
        self._kept = tuple(np.concatenate(pair) for pair in zip(self._kept, found, strict=True))
        self._prune()

    def _prune(self) -> None:
        order = np.lexsort((self._kept[2], self._kept[1], self._kept[0], self._kept[3]))
        first, second, index, group = (values[order] for values in self._kept)
        start = np.searchsorted(group, np.arange(self.groups))
        rank = np.arange(group.size) - start[group]
        last = start + self.k - 1  # place of the k-th of each group, if it has one
        full = (last < group.size) & (group[np.minimum(last, group.size - 1)] == np.arange(self.groups))
        self._first[full], self._second[full] = first[last[full]], second[last[full]]
        near = (first == self._first[group]) & (second <= self._second[group] + self.slack) & (rank < self.k + NEAR_TIES) & (self.slack > 0)
        keep = (rank < self.k) | near
        self._kept = (first[keep], second[keep], index[keep], group[keep])

    def top(self, n: int) -> list[int]:
        """Places in the lattice of the n best of all groups, best first; with slack more, for the exact count to choose from.

        Of several groups those of the n best groups.
        """
        first, second, index, group = self._kept
        order = np.lexsort((index, second, first))
        n += NEAR_TIES if self.slack else 0
        if self.groups > 1:
            best = list(dict.fromkeys(group[order].tolist()))[:n]
            return index[order][np.isin(group[order], best)].tolist()
        return index[order[:n]].tolist()

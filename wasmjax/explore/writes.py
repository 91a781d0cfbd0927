"""Who wrote which address when: the members of an address space in the order of their tokens.

Per block of tokens only the last write of every address is kept; what happened inside a block is
found again from its tokens when somebody asks.
"""

import collections
import threading
from collections.abc import Callable

import numpy as np

from wasmjax.explore.record import BLOCK, Record

Find = Callable[[int, int], tuple[np.ndarray, np.ndarray]]
"""Members among tokens start..stop: addresses and token indices, int64 [n] each, in order."""

_KEPT = 16
"""Blocks whose members are remembered in full."""


class Writes:
    """Members of one address space.

    Args:
      record: the tokens. find: reads members off them.
      unique: keep only the last one per address and block.
    """

    def __init__(self, record: Record, find: Find, unique: bool = True) -> None:
        self._record, self._find, self._unique = record, find, unique
        self._sealed: list[tuple[np.ndarray, np.ndarray]] = []
        self._ends = [0]
        self._all = np.zeros((2, 256), np.int64)
        self._full: collections.OrderedDict[tuple[int, int], tuple[np.ndarray, np.ndarray]]
        self._full = collections.OrderedDict()
        self._lock = threading.Lock()

    def seal(self) -> None:
        """Indexes all blocks that are complete."""
        with self._lock:
            while (len(self._sealed) + 1) * BLOCK <= self._record.tokens:
                block = len(self._sealed)
                found = self._find(block * BLOCK, (block + 1) * BLOCK)
                address, index = last_of_each(*found) if self._unique else found
                end = self._ends[-1] + len(address)
                if end > self._all.shape[1]:
                    grown = np.zeros((2, max(end, 2 * self._all.shape[1])), np.int64)
                    grown[:, : self._ends[-1]] = self._all[:, : self._ends[-1]]
                    self._all = grown
                self._all[:, self._ends[-1] : end] = address, index
                self._sealed.append((address, index))
                self._ends.append(end)

    def until(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Members up to token `index`, older ones first: addresses and tokens.

        Where `unique`, overwritten ones may be missing; the last one of each address is there.
        """
        blocks = min((index + 1) // BLOCK, len(self._sealed))
        end = self._ends[blocks]
        address, token = self._within(blocks * BLOCK, index + 1)
        return (
            np.concatenate([self._all[0, :end], address]),
            np.concatenate([self._all[1, :end], token]),
        )

    def latest(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """`until`, without what was overwritten if that may be left out; in the order of tokens."""
        address, token = self.until(index)
        if not self._unique:
            return address, token
        address, token = last_of_each(address, token)
        order = np.argsort(token, kind="stable")
        return address[order], token[order]

    def between(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """All members among tokens start..stop: addresses and tokens."""
        found = []
        while start < stop:
            end = min(stop, (start // BLOCK + 1) * BLOCK)
            address, token = self._within(start // BLOCK * BLOCK, end)
            first = int(np.searchsorted(token, start))
            found.append((address[first:], token[first:]))
            start = end
        none = np.zeros(0, np.int64)
        addresses, tokens = zip(*found, (none, none), strict=True)
        return np.concatenate(addresses), np.concatenate(tokens)

    def last(self, addresses_N: np.ndarray, index: int) -> np.ndarray:
        """The token up to `index` that wrote each address last, int64 [N]; -1: none."""
        out = np.full(len(addresses_N), -1, np.int64)
        blocks = min((index + 1) // BLOCK, len(self._sealed))
        _look_up(out, addresses_N, *last_of_each(*self._within(blocks * BLOCK, index + 1)))
        for block in range(blocks - 1, -1, -1):
            if (out >= 0).all():
                break
            if len(self._sealed[block][0]):
                _look_up(out, addresses_N, *self._latest(block))
        return out

    def _latest(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        found = self._sealed[block]
        return found if self._unique else last_of_each(*found)

    def _within(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Members of a part of one block (or of what is behind the last sealed one)."""
        if stop <= start:
            none = np.zeros(0, np.int64)
            return none, none
        key = (start, max(stop, min(start + BLOCK, self._record.tokens)))
        with self._lock:
            if key not in self._full:
                self._full[key] = self._find(*key)
                while len(self._full) > _KEPT:
                    self._full.popitem(last=False)
            self._full.move_to_end(key)
            address, token = self._full[key]
        n = int(np.searchsorted(token, stop))
        return address[:n], token[:n]


def last_of_each(address: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct addresses, ascending, with the last index of each."""
    unique, first = np.unique(address[::-1], return_index=True)
    return unique, index[::-1][first]


def _look_up(out: np.ndarray, wanted: np.ndarray, address: np.ndarray, index: np.ndarray) -> None:
    if not len(address):
        return
    at = np.minimum(np.searchsorted(address, wanted), len(address) - 1)
    found = (out < 0) & (address[at] == wanted)
    out[found] = index[at[found]]

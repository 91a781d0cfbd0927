"""The sparsity pattern of a weight matrix: what is not zero, row by row. Exactly invertible."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class PackedMatrix:
    """A matrix as its stored entries in row order (compressed sparse rows).

    An entry is stored unless it is +0.0 to the bit, so that `unpack` restores signed zeros too;
    `row` leaves them out, since they weigh nothing.

    Attributes:
      shape: shape of the array; its last axis are the columns, all others its rows in C order.
      starts: [rows + 1], where each row's entries start.
      columns, values: [entries], column and value of each entry.
    """

    shape: tuple[int, ...]
    starts: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    def row(self, *index: int) -> list[tuple[int, float]]:
        """(column, weight) of the entries of a row, given by its position on the leading axes."""
        number = 0
        for size, i in zip(self.shape, index, strict=False):
            number = number * size + i
        start, end = self.starts[number], self.starts[number + 1]
        pairs = zip(self.columns[start:end].tolist(), self.values[start:end].tolist(), strict=True)
        return [(column, value) for column, value in pairs if value]


def pack(matrix: np.ndarray) -> PackedMatrix:
    """The entries of a float64 array with at least one axis."""
    matrix = np.ascontiguousarray(matrix, np.float64)
    flat = np.flatnonzero(matrix.reshape(-1).view(np.uint64))
    width = matrix.shape[-1]
    ends = np.arange(matrix.size // width + 1) * width
    return PackedMatrix(
        matrix.shape, np.searchsorted(flat, ends), flat % width, matrix.reshape(-1)[flat]
    )


def unpack(packed: PackedMatrix) -> np.ndarray:
    """The array that was packed, bit for bit."""
    out = np.zeros(packed.shape)
    width = packed.shape[-1]
    row = np.repeat(np.arange(len(packed.starts) - 1), np.diff(packed.starts))
    out.reshape(-1)[row * width + packed.columns] = packed.values
    return out

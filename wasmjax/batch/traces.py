"""Token traces of a batch as Parquet, for people who train on them (docs/batch.md).

One row per job: its number, how it ended, how many of its tokens are prompt, and per token field a
list of values, prompt and generated tokens in order. Columns of one field compress well, and
stacking them gives the tokens back. Vocabulary and format version are in the schema's metadata.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wasmjax.circuit.weights import Vocabulary

FORMAT = 1
_SHARD_TOKENS = 1 << 24


@dataclasses.dataclass(frozen=True)
class Trace:
    """The tokens of a job.

    Attributes:
      index: number of the job. outcome: how it ended (`JobResult.outcome`).
      tokens: int16 [n, F], those of the prompt first. prompt_tokens: how many those are; tokens of
        a second invocation (after a start function) are among the generated ones.
    """

    index: int
    outcome: str
    tokens: np.ndarray
    prompt_tokens: int


class TraceWriter:
    """Writes traces to numbered files of a folder, each complete or absent.

    Args:
      folder: it is made if need be. vocabulary: the token fields.
      shards: files that exist and are kept; later ones are removed.

    Attributes:
      shards: files written.

    Raises:
      OSError: if the folder cannot be used.
    """

    def __init__(
        self, folder: str | os.PathLike[str], vocabulary: Sequence[Vocabulary], shards: int = 0
    ) -> None:
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.shards = shards
        for path in self.folder.glob("traces-*.parquet*"):
            if not path.name.endswith(".parquet") or _number(path) >= shards:
                path.unlink()
        fields = [{"name": f.name, "lo": f.lo, "size": f.size} for f in vocabulary]
        metadata = {"wasmjax.format": str(FORMAT), "wasmjax.fields": json.dumps(fields)}
        self._names = [field.name for field in vocabulary]
        self._schema = pa.schema(
            [
                pa.field("index", pa.int64()),
                pa.field("outcome", pa.string()),
                pa.field("prompt_tokens", pa.int64()),
                *[pa.field(f"tokens.{name}", pa.list_(pa.int16())) for name in self._names],
            ],
            metadata,
        )
        self._pending: list[Trace] = []

    def add(self, trace: Trace) -> None:
        """Adds a trace; it is on disk after the next `flush` at the latest."""
        self._pending.append(trace)
        if sum(len(pending.tokens) for pending in self._pending) >= _SHARD_TOKENS:
            self.flush()

    def flush(self) -> None:
        """Writes what is pending to a file of its own."""
        if not self._pending:
            return
        lengths = [len(trace.tokens) for trace in self._pending]
        offsets = pa.array(np.cumsum([0, *lengths]), pa.int32())
        tokens_NxF = np.concatenate([trace.tokens for trace in self._pending])
        columns = [
            pa.array([trace.index for trace in self._pending], pa.int64()),
            pa.array([trace.outcome for trace in self._pending], pa.string()),
            pa.array([trace.prompt_tokens for trace in self._pending], pa.int64()),
        ]
        for values_N in np.ascontiguousarray(tokens_NxF.T.astype(np.int16)):
            columns.append(pa.ListArray.from_arrays(offsets, pa.array(values_N)))
        path = self.folder / f"traces-{self.shards:05d}.parquet"
        partial = path.with_suffix(".parquet.partial")
        table = pa.Table.from_arrays(columns, schema=self._schema)
        pq.write_table(table, partial, compression="zstd")
        os.replace(partial, path)
        self.shards += 1
        self._pending = []


def read_traces(folder: str | os.PathLike[str]) -> Iterator[Trace]:
    """Traces of a folder, file by file (in the order in which jobs ended).

    Raises:
      OSError: if a file cannot be read. ValueError: if it holds something else.
    """
    for path in sorted(pathlib.Path(folder).glob("traces-*.parquet")):
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        if metadata.get(b"wasmjax.format") != str(FORMAT).encode():
            raise ValueError(f"{path.name}: no traces of this version")
        fields = [f["name"] for f in json.loads(metadata[b"wasmjax.fields"])]
        lists = [table[f"tokens.{name}"] for name in fields]
        for row in range(table.num_rows):
            columns = [column[row].values.to_numpy(zero_copy_only=False) for column in lists]
            yield Trace(
                table["index"][row].as_py(),
                table["outcome"][row].as_py(),
                np.stack(columns, 1),
                table["prompt_tokens"][row].as_py(),
            )


def _number(path: pathlib.Path) -> int:
    return int(path.name.removeprefix("traces-").removesuffix(".parquet"))

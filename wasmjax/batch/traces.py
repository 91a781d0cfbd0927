"""Token traces of a batch as Parquet, for people who train on them (docs/batch.md).

One row per job: its number, how it ended, how many of its tokens are prompt, and per token field a
list of values, prompt and generated tokens in order. Columns of one field compress well, and
stacking them gives the tokens back. Vocabulary and format version are in the schema's metadata.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wasmjax.circuit.weights import Vocabulary

FORMAT = 1
_SHARD_TOKENS = 1 << 24
_NAME = re.compile(r"traces-([0-9]{5,})\.parquet(\.partial)?")


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
        for number in range(shards):
            if not self._path(number).is_file():
                raise FileNotFoundError(errno.ENOENT, "traces are missing", self._path(number))
        for path in self.folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match and (match[2] or int(match[1]) >= shards):
                path.unlink()
        self._schema = _schema([{"name": f.name, "lo": f.lo, "size": f.size} for f in vocabulary])
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
        path = self._path(self.shards)
        partial = path.with_suffix(".parquet.partial")
        table = pa.Table.from_arrays(columns, schema=self._schema)
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True)
        os.replace(partial, path)
        self.shards += 1
        self._pending = []

    def _path(self, number: int) -> pathlib.Path:
        return self.folder / f"traces-{number:05d}.parquet"


def read_traces(folder: str | os.PathLike[str]) -> Iterator[Trace]:
    """Traces of a folder, file by file (in the order in which jobs ended).

    Raises:
      OSError: if a file cannot be read. ValueError: if it holds something else.
    """
    for path in sorted(pathlib.Path(folder).iterdir()):
        match = _NAME.fullmatch(path.name)
        if not match or match[2]:
            continue
        table = _table(path)
        lists = table.columns[3:]
        for row in range(table.num_rows):
            columns = [column[row].values.to_numpy(zero_copy_only=False) for column in lists]
            yield Trace(
                table["index"][row].as_py(),
                table["outcome"][row].as_py(),
                np.stack(columns, 1),
                table["prompt_tokens"][row].as_py(),
            )


def _schema(fields: list[dict[str, Any]]) -> pa.Schema:
    metadata = {"wasmjax.format": str(FORMAT), "wasmjax.fields": json.dumps(fields)}
    tokens = [pa.field(f"tokens.{field['name']}", pa.list_(pa.int16())) for field in fields]
    return pa.schema(
        [
            pa.field("index", pa.int64()),
            pa.field("outcome", pa.string()),
            pa.field("prompt_tokens", pa.int64()),
            *tokens,
        ],
        metadata,
    )


def _table(path: pathlib.Path) -> pa.Table:
    """The table of a file of traces. Raises what `read_traces` does."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except pa.ArrowException as error:
        raise ValueError(f"{path.name}: {' '.join(str(error).split())}") from None
    metadata = table.schema.metadata or {}
    if metadata.get(b"wasmjax.format") == str(FORMAT).encode():
        fields = json.loads(metadata.get(b"wasmjax.fields", b"[]"))
        if table.schema.equals(_schema(fields), check_metadata=False):
            return table
    raise ValueError(f"{path.name}: no traces of this version")

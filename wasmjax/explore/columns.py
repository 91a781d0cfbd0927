"""Named arrays as one block of bytes: what the page reads binary data from.

Four bytes with the length of a JSON header, the header (name -> [type, shape, offset from the
header's end]), then the arrays, little-endian, each at a multiple of eight.
"""

import json

import numpy as np

_TYPES = {"u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"}


def pack(**arrays: np.ndarray) -> bytes:
    """The bytes of named arrays.

    Raises:
      ValueError: if one is of a type that the page does not read.
    """
    header: dict[str, list] = {}
    parts: list[bytes] = []
    offset = 0
    for name, array in arrays.items():
        kind = array.dtype.str.lstrip("<|=")
        if kind not in _TYPES:
            raise ValueError(f"{name}: no arrays of {array.dtype}")
        data = np.ascontiguousarray(array).astype(f"<{kind}", copy=False).tobytes()
        data += bytes(-len(data) % 8)
        header[name] = [kind, list(array.shape), offset]
        parts.append(data)
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 4) % 8)
    return b"".join([len(text).to_bytes(4, "little"), text, *parts])


def unpack(data: bytes) -> dict[str, np.ndarray]:
    """What `pack` packed."""
    length = int.from_bytes(data[:4], "little")
    header = json.loads(data[4 : 4 + length])
    out = {}
    for name, (kind, shape, offset) in header.items():
        count = int(np.prod(shape, dtype=np.int64))
        flat = np.frombuffer(data, f"<{kind}", count, 4 + length + offset)
        out[name] = flat.reshape(shape)
    return out

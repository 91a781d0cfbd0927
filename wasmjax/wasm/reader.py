"""A cursor over a piece of the binary: integers, names and the errors they can give."""

from __future__ import annotations

from .errors import DecodeError, MalformedError


class Reader:
    """A cursor over ``data``, which lies at byte ``base`` of the file.

    Every method reads from ``pos`` on and moves it; every method raises ``short`` when ``data``
    ends first (``TruncatedError`` for the file, ``MalformedError`` for a section).
    """

    __slots__ = ("base", "data", "pos", "short", "where")

    def __init__(
        self, data: bytes, base: int, where: str, short: type[DecodeError] = MalformedError
    ) -> None:
        self.data = data
        self.base = base
        self.where = where
        self.short = short
        self.pos = 0

    @property
    def offset(self) -> int:
        """The byte in the file where the next read begins."""
        return self.base + self.pos

    def at_end(self) -> bool:
        """Whether everything has been read."""
        return self.pos >= len(self.data)

    def malformed(self, what: str, offset: int | None = None) -> MalformedError:
        """The error to raise for a broken encoding, here or at ``offset``."""
        return MalformedError(what, self.offset if offset is None else offset, self.where)

    def ended(self) -> DecodeError:
        """The error to raise when ``data`` ends too early."""
        end = self.base + len(self.data)
        return self.short(f"{self.where or 'the file'} ends unexpectedly", end)

    def byte(self) -> int:
        """One byte."""
        if self.pos >= len(self.data):
            raise self.ended()
        value = self.data[self.pos]
        self.pos += 1
        return value

    def take(self, count: int) -> bytes:
        """``count`` bytes."""
        end = self.pos + count
        if end > len(self.data):
            raise self.ended()
        value = self.data[self.pos : end]
        self.pos = end
        return value

    def u32(self) -> int:
        """An unsigned 32-bit integer in LEB128.

        Raises ``MalformedError`` if it takes more than 5 bytes or has bits beyond the 32nd.
        """
        if self.pos < len(self.data) and (byte := self.data[self.pos]) < 0x80:
            self.pos += 1
            return byte
        start = self.offset
        value, _ = self._leb(32)
        if value >> 32:
            raise self.malformed("an integer has bits beyond the 32nd", start)
        return value

    def signed(self, width: int) -> int:
        """A signed integer of ``width`` bits in LEB128.

        Raises ``MalformedError`` if it takes more bytes than that needs or is out of range.
        """
        start = self.offset
        value, read = self._leb(width)
        if value >> (read - 1):
            value -= 1 << read
        if not -(1 << (width - 1)) <= value < 1 << (width - 1):
            raise self.malformed(f"a signed integer does not fit {width} bits", start)
        return value

    def _leb(self, width: int) -> tuple[int, int]:
        """The raw bits of an integer in LEB128, and how many of them there are."""
        start = self.offset
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value, shift
            if shift >= width:
                raise self.malformed(f"an integer of {width} bits is encoded too long", start)

    def name(self) -> str:
        """A name: a byte count and that much UTF-8. Raises ``MalformedError`` for other bytes."""
        count = self.u32()
        start = self.offset
        try:
            return self.take(count).decode("utf-8")
        except UnicodeDecodeError:
            raise self.malformed("a name is not UTF-8", start) from None

"""Why a binary was refused: one exception class per kind of reason, one clear line per error."""

from __future__ import annotations


class DecodeError(ValueError):
    """A binary that this engine will not run, and why, in one line.

    ``what`` is the reason, ``offset`` the byte in the file where it was noticed (``None`` when
    there is no such byte) and ``where`` the section or function it lies in.
    """

    label = "cannot decode"

    def __init__(self, what: str, offset: int | None = None, where: str = "") -> None:
        self.what = what
        self.offset = offset
        self.where = where
        line = f"{self.label}: {what}"
        if offset is not None:
            line += f", at byte {offset:#x}"
        if where:
            line += f" in {where}"
        super().__init__(line)


class NotWasmError(DecodeError):
    """The bytes do not begin as a WebAssembly binary of version 1 does."""

    label = "not a WebAssembly module"


class TruncatedError(DecodeError):
    """The file ends before the module does."""

    label = "truncated"


class MalformedError(DecodeError):
    """The bytes break the binary format of the WebAssembly specification."""

    label = "malformed"


class ValidationError(DecodeError):
    """The module is well-formed but breaks a validation rule (types, index bounds, ...)."""

    label = "invalid"


class UnsupportedError(DecodeError):
    """The module uses a WebAssembly feature, or exceeds a limit, that this engine does not support.

    ``feature`` is the name of that feature or limit.
    """

    label = "unsupported"

    def __init__(self, feature: str, what: str, offset: int | None = None, where: str = "") -> None:
        self.feature = feature
        super().__init__(f"{what} ({feature})", offset, where)

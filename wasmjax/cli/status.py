"""Exit statuses, and how the command line speaks to people.

A program's own exit status is passed on, and may be any of these numbers; the last line on stderr
(or `--json`) says what it was.
"""

import contextlib
import os
import sys
from collections.abc import Iterator

TRAPPED = 134
"""The program trapped."""
OUT_OF_STEPS = 124
"""The step limit was reached; output so far was written."""
INTERRUPTED = 130
"""Ctrl-C; output so far was written."""
REFUSED = 2
"""The input cannot be run: one line says why."""
LIMIT = 1
"""A limit of the machine was reached, or a comparison or proof failed."""


class Refused(Exception):
    """Input that cannot be run; the message is one line."""


class Trapped(Exception):
    """The start function trapped before anything could be called."""


def say(line: str) -> None:
    """One line on stderr, after everything on stdout."""
    with contextlib.suppress(BrokenPipeError, ValueError):
        sys.stdout.flush()
    print(f"wasmjax: {line}", file=sys.stderr, flush=True)


def forget_stdout() -> None:
    """Nobody reads stdout any more: nothing may be written to it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def refusing(subject: str) -> Iterator[None]:
    """Turns errors about the input into one line that names it."""
    from wasmjax.engine.decode import EngineError
    from wasmjax.instance import Trap
    from wasmjax.model.io import WeightsFileError
    from wasmjax.wasm.errors import DecodeError
    from wasmjax.wasm.lower import InstantiationError, LinkError

    try:
        yield
    except OSError as error:
        raise Refused(f"{subject}: {error.strerror or error}") from None
    except Trap as error:
        raise Trapped(f"trap in the start function: {error}") from None
    except (
        DecodeError,
        EngineError,
        InstantiationError,
        LinkError,
        ValueError,
        WeightsFileError,
    ) as error:
        raise Refused(f"{subject}: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

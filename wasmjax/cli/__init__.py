"""The command line. `wasmjax --help` lists the commands; exit statuses are in `status`."""

import os
import sys
from collections.abc import Sequence

from wasmjax.cli import status
from wasmjax.cli.parser import parse

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    args = parse(sys.argv[1:] if argv is None else argv)
    # A step's kernels are too small to be shared by XLA's threads: two threads take as long as one,
    # or twice as long where others use the machine.
    os.environ.setdefault("PJRT_NPROC", "1")
    try:
        return args.command(args)
    except status.Refused as error:
        status.say(str(error))
        return status.REFUSED
    except status.Trapped as error:
        status.say(str(error))
        return status.TRAPPED
    except KeyboardInterrupt:
        status.say("interrupted")
        return status.INTERRUPTED
    except BrokenPipeError:
        status.forget_stdout()
        return status.LIMIT

"""The `niclab` command. Exit status: 0 pass, 1 not as expected or not measured, 2 could not run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from niclab.cli import arguments
from niclab.errors import LabError

PASS, FAIL, COULD_NOT_RUN = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; an error is printed as one what, one why and one mend, without a traceback."""
    parser = arguments.parser()
    options = parser.parse_args(argv)
    try:
        status = _command(options)
        sys.stdout.flush()
        return status
    except LabError as error:
        print(f"niclab: {error}", file=sys.stderr)
        return COULD_NOT_RUN
    except KeyboardInterrupt:
        print("niclab: interrupted; nothing of the lab is left", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PASS


def _command(options: argparse.Namespace) -> int:
    if options.userns is not None:
        from niclab.host.userns import enter

        # Only now: an unusable argument must be told before anything is started.
        if getattr(options, "datapath", None):
            from niclab.request import decide

            decide(options.datapath)
        enter(persistent=options.userns == "persistent")
    run: Callable[[argparse.Namespace], int] = options.load()
    return run(options)


__all__ = ["COULD_NOT_RUN", "FAIL", "PASS", "main"]

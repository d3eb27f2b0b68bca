"""The `niclab` command. Exit status: 0 pass, 1 not as expected or not measured, 2 could not run."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from niclab.cli import arguments
from niclab.errors import LabError

PASS, FAIL, COULD_NOT_RUN = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; an error is printed as one what, one why and one fix, without a traceback."""
    if sys.stdout is None:  # a shell's `>&-`
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (it stays open as long as the process)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that has no arrows gets a question mark
            stream.reconfigure(errors="replace")
    argv = sys.argv[1:] if argv is None else argv
    parser = arguments.parser(argv)
    options, left = parser.parse_known_args(argv)
    if left:
        hint = "; a shell expands braces: quote --set 'devices={eth0,eth1}'" if "=" in left[0].lstrip("-") else ""
        parser.error(f"unrecognized arguments: {' '.join(left)}{hint}")
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
        _drop_output()
        return PASS
    except OSError as error:
        if error.errno not in _OUTPUT_IS_GONE or error.filename is not None:
            raise
        _drop_output()
        print(f"niclab: cannot write the output: {error.strerror}", file=sys.stderr)
        return COULD_NOT_RUN


_OUTPUT_IS_GONE = frozenset({errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG})


def _drop_output() -> None:
    """What is still buffered has nowhere to go; Python would try once more at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _command(options: argparse.Namespace) -> int:
    if options.userns is not None:
        from niclab.host.userns import enter

        # Only now: an unusable argument must be refused before anything is started.
        if getattr(options, "datapath", None):
            from niclab.request import decide

            decide(options.datapath)
        enter(persistent=options.userns == "persistent")
    return arguments.loaded(options)(options)

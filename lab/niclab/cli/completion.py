"""`niclab completion`: a script for bash, zsh or tcsh, made from the command line's own words."""

from __future__ import annotations

import argparse

from niclab.cli import PASS
from niclab.cli.arguments import parser


def run(options: argparse.Namespace) -> int:
    """E.g. `niclab completion bash > ~/.local/share/bash-completion/completions/niclab`."""
    import shtab

    print(shtab.complete(parser(), options.shell).rstrip())
    return PASS

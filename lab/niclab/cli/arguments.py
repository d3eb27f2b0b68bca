"""The command line, as commands.toml describes it. Commands are imported only when they run, so `--help` is quick."""

from __future__ import annotations

import argparse
import importlib
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from niclab.errors import LabError

_DESCRIPTION = (
    "Which physical NIC carries this pod's traffic, and why? Build a multi-NIC lab, send probes, watch every cable."
)
_VERSION_HELP = "show program's version number and exit"
_OWN_KEYS = ("name", "many", "type")
"""Keys of an argument that are not argparse's, or not as argparse has them."""


def parser(argv: Collection[str] | None = None) -> argparse.ArgumentParser:
    """With the arguments of those verbs that are among `argv`; None: of all. `--help` has no time for the others'."""
    words = _words()
    top = argparse.ArgumentParser(prog="niclab", description=_DESCRIPTION)
    top.add_argument("--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help=_VERSION_HELP)
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for name, verb in words["verbs"].items():
        command = commands.add_parser(name, help=verb["help"], description=verb["help"])
        command.set_defaults(verb=name, userns=verb.get("userns"))
        if argv is not None and name not in argv:
            continue
        if "bundles" not in verb:
            command.set_defaults(run=verb.get("run", f"{name}.run"))
            _add_arguments(command, words, verb["takes"])
            continue
        verbs = command.add_subparsers(metavar="VERB", required=True)
        for action, about in words["bundles"].items():
            command = verbs.add_parser(action, help=about["help"], description=about["help"])
            command.set_defaults(run=f"bundles.{action}")
            _add_arguments(command, words, about["takes"], companion=verb["bundles"])
    return top


def shared(name: str) -> dict[str, Any]:
    """An option that other programs have too: what argparse takes of it, but its name."""
    return _keywords(_words()["shared"][name])


def loaded(options: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    """The function that runs the chosen verb; only now is its module imported."""
    module, _, function = options.run.partition(".")
    run: Callable[[argparse.Namespace], int] = getattr(importlib.import_module(f"niclab.cli.{module}"), function)
    return run


def complete(options: argparse.Namespace) -> int:
    """E.g. `niclab completion bash > ~/.local/share/bash-completion/completions/niclab`."""
    import shtab

    print(shtab.complete(parser(), options.shell).rstrip())
    return 0


def _words() -> Mapping[str, Any]:
    return tomllib.loads(Path(__file__).with_name("commands.toml").read_text())


def _add_arguments(
    command: argparse.ArgumentParser, words: Mapping[str, Any], takes: list[Any], companion: str = ""
) -> None:
    for argument in _flat(words, takes):
        filled = {
            key: value.format(companion=companion) if isinstance(value, str) else value
            for key, value in argument.items()
        }
        command.add_argument(*filled["name"].split(), **_keywords(filled))


def _flat(words: Mapping[str, Any], takes: list[Any]) -> Iterator[Mapping[str, Any]]:
    for entry in takes:
        if not isinstance(entry, str):
            yield entry
        elif entry in words["groups"]:
            yield from _flat(words, words["groups"][entry])
        else:
            yield words["shared"][entry]


def _keywords(argument: Mapping[str, Any]) -> dict[str, Any]:
    keywords = {key: value for key, value in argument.items() if key not in _OWN_KEYS}
    if argument.get("many"):
        keywords |= {"action": "append", "default": []}
    if "type" in argument:
        keywords["type"] = {"int": int, "count": _count, "lab id": _lab_id}[argument["type"]]
    return keywords


class _Version(argparse.Action):
    """Looked up only when it is asked for: to find it takes longer than `--help` may."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib import metadata

        try:
            print(f"niclab {metadata.version('niclab')}")
        except metadata.PackageNotFoundError:
            print("niclab (not installed)")
        parser.exit()


def _count(text: str) -> int:
    count = int(text) if text.isdecimal() else 0
    if not 1 <= count <= 256:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of probes from 1 to 256")
    return count


def _lab_id(text: str) -> str:
    from niclab.host.ledgers import check_id  # imported here: it takes longer than --help may

    try:
        check_id(text)
    except LabError as error:
        raise argparse.ArgumentTypeError(f"{error.what}: {error.fix}") from None
    return text

"""Errors a person can act on: one line what, one line why, one line how to fix it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

_MANY = 12


class LabError(Exception):
    """The lab could not run (exit status 2): `what` happened, `why`, and how to `fix` it."""

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        self.what = what
        self.why = why
        self.fix = fix
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why:  {self.why}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class NoAnswer(LabError):
    """A program that should know does not answer. That is not an empty answer."""


@contextmanager
def lab_error(what: str, *, fix: str = "") -> Iterator[None]:
    """An OSError in the block is raised as a LabError that says `what` failed, and the system's reason."""
    try:
        yield
    except OSError as error:
        raise LabError(what, why=error.strerror or str(error), fix=fix) from None


class Problem(NamedTuple):
    """One thing wrong with an input file. `field` is a dotted path; `line` counts from 1, 0 when unknown."""

    file: str
    line: int
    field: str
    why: str
    fix: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        field = f"{self.field}: " if self.field else ""
        return f"{where}: {field}{self.why}" + (f"\n  fix: {self.fix}" if self.fix else "")


class Finding(NamedTuple):
    """One thing wrong with a topology, before it is known where in a file it stands.

    `path` leads to the field in the topology, with every range written out.
    """

    path: tuple[str | int, ...]
    why: str
    fix: str


class InputError(LabError):
    """An input (a topology, settings, a flow, a route) is wrong; `problems` lists everything that was found."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in problems))


class Problems(list[Problem]):
    """What is wrong with one input, collected while it is read. More than a person reads at once ends the reading."""

    _MOST = 100

    def append(self, problem: Problem) -> None:
        super().append(problem)
        if len(self) == self._MOST:
            why = f"{self._MOST} things are wrong with it; what follows was not looked at"
            super().append(problem._replace(line=0, field="", why=why, fix="fix these first"))
            self.finish()

    def extend(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self.append(problem)

    def finish(self) -> None:
        """Raises InputError with what was collected, if anything was."""
        if self:
            raise InputError(self)


def closest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known word that looks most like this one."""
    import difflib  # imported here and not above, as `dataclasses` is not: `--help` has no time for them

    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)), None)


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint naming the closest known word, else all of them, else the first few."""
    choices = sorted(set(known))
    if close := closest(word, choices, cutoff=0.5):
        return f"did you mean {close!r}?"
    if not choices:
        return "there is none to choose from"
    more = f", … ({len(choices)} in all)" if len(choices) > _MANY else ""
    return f"use one of {', '.join(choices[:_MANY])}{more}"

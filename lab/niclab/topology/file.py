"""Topology files: found by name, and read to models with the line of every field."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from niclab.errors import Finding, InputError, LabError, Problem, Problems, nearest
from niclab.topology.expand import RangeError, expand
from niclab.topology.messages import explain
from niclab.topology.model import Topology
from niclab.topology.yamlfile import Field, LineOf, dotted, load_with_lines, read_text


def directories() -> tuple[Path, ...]:
    """Where topologies are looked up by name: ./topologies, then the ones shipped with the package."""
    package = Path(__file__).resolve().parent.parent
    return Path.cwd() / "topologies", package / "_topologies", package.parents[1] / "topologies"


def names() -> list[str]:
    """Every topology that can be named without a path."""
    return sorted({path.stem for directory in directories() for path in directory.glob("*.yaml")})


def find(name: str) -> Path:
    """The file of a topology given by name or path. Raises LabError."""
    given = Path(name)
    if given.suffix in (".yaml", ".yml", ".json") or "/" in name:
        return given
    for directory in directories():
        for path in directory.glob("*.yaml"):
            if path.stem == name:
                return path
    raise LabError(
        f"no topology is named {name!r}",
        why=f"looked for {name}.yaml in {directories()[0]} and among the shipped ones",
        fix=nearest(name, names()) + ", or give the path of a YAML file",
    )


_MOST = 200
"""Places in one file that are complained of."""


def is_topology(path: Path) -> bool:
    """A topology has `fabrics` or `nodes`; a file that cannot be read is one by its name."""
    try:
        documents, _ = load_with_lines(read_text(path), str(path))
    except InputError:
        return path.suffix in (".yaml", ".yml")
    return any(isinstance(data, dict) and not {"fabrics", "nodes"}.isdisjoint(data) for data in documents)


def parse(text: str, name: str, check: Callable[[Topology], Iterable[Finding]]) -> Topology:
    """A topology from YAML text; `name` is the file's name in errors, `check` finds what must hold between fields.

    Raises InputError with what was found, each at its line.
    """
    document, line_of = _only_document(text, name)
    try:
        data, origin = expand(document)
    except RangeError as error:
        field = dotted(error.path)
        raise InputError([Problem(name, line_of(0, error.path), field, str(error), error.fix)]) from None
    places = _Places(name, line_of, data, origin)
    try:
        topology = Topology.model_validate(data)
    except ValidationError as error:
        raise InputError(places.problems(explain(dict(details)) for details in error.errors())) from None
    places.problems(check(topology)).finish()
    return topology


def _only_document(text: str, name: str) -> tuple[dict[Any, Any], LineOf]:
    documents, line_of = load_with_lines(text, name)
    held = [number for number, document in enumerate(documents) if document is not None]
    if len(held) == 1 and isinstance(only := documents[held[0]], dict):
        return only, lambda _, field=(), /: line_of(held[0], field)
    if not held:
        line, why = 1, "the file is empty"
    elif len(held) > 1:
        line, why = line_of(held[1]), f"the file holds {len(held)} documents; here the second begins"
    else:
        kind = "a list" if isinstance(documents[held[0]], list) else "a single value"
        line, why = line_of(held[0]), f"the file holds {kind}, not a mapping"
    raise InputError([Problem(name, line, "", why, "a topology is one mapping with name, fabrics and nodes")])


@dataclass(frozen=True)
class _Places:
    """Where the fields of a topology stand in its file. `origin`: path in the data → path in the file."""

    name: str
    line_of: LineOf
    data: Any
    origin: dict[Field, Field]

    def problems(self, findings: Iterable[Finding]) -> Problems:
        """The findings in the file's order; what the entries of one range have in common is listed once. Of very many
        only the first are listed: the rest is not asked for.
        """
        first: dict[Field, Field] = {}
        repeats: dict[Field, set[Field]] = {}
        kept: list[tuple[Field, Finding]] = []
        for finding in findings:
            source = self._source(finding.path)
            if first.setdefault(source, finding.path) == finding.path:
                if len(kept) == _MOST:
                    break
                kept.append((source, finding))
            else:
                repeats.setdefault(source, set()).add(finding.path)
        made = [self._problem(source, finding, len(repeats.get(source, ()))) for source, finding in kept]
        return Problems(sorted(made, key=lambda problem: problem.line))

    def _problem(self, source: Field, finding: Finding, more: int) -> Problem:
        why = finding.why + (f" (and so for {more} more of the range)" if more else "")
        # Names as the topology has them, indices as the file has them.
        both = zip(finding.path, source, strict=True)
        field = tuple(there if isinstance(here, int) and isinstance(there, int) else here for here, there in both)
        return Problem(self.name, self.line_of(0, source), dotted(field), why, finding.fix)

    def _source(self, path: Field) -> Field:
        known = path
        while known not in self.origin:
            known = known[:-1]
        rest = path[len(known) :]
        if rest:
            # Pods by name may be written as a list of names.
            value = functools.reduce(operator.getitem, known, self.data)
            if isinstance(value, list) and rest[0] in value:
                return (*self.origin[*known, value.index(rest[0])], *rest[1:])
        return (*self.origin[known], *rest)

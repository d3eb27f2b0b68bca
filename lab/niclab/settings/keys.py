"""Which keys an agent of some version has, and which of them the built-in datapath models."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from niclab.settings.known import VERSIONS, agent_flags, key_problem, other_keys, release

if TYPE_CHECKING:
    from niclab.errors import Problem
    from niclab.settings.model import Settings


class KeyReport(NamedTuple):
    """What `check_keys` found: errors must be mended, warnings are worth saying."""

    errors: tuple[Problem, ...]
    warnings: tuple[str, ...]


def check_keys(settings: Settings, *, version: str) -> KeyReport:
    """Keys no agent has are errors; keys that agents of this version do not have, but others do, are warnings."""
    errors: list[Problem] = []
    warnings: list[str] = []
    here = agent_flags(version)
    for owner, values in settings.told():
        for key in values:
            if problem := key_problem(key, owner, 0):
                errors.append(problem)
            elif key not in here and (warning := _version_warning(key, version)):
                warnings.append(warning)
    return KeyReport(tuple(errors), tuple(dict.fromkeys(warnings)))


def _version_warning(key: str, version: str) -> str | None:
    having = [known for known in VERSIONS if key in agent_flags(known)]
    if having:
        does = "does not" if version in VERSIONS else "may not"
        return f"{key}: agents of Cilium {' and '.join(having)} have this flag, {version} {does} read it"
    other = other_keys()[key]
    if other.reader == "removed" and not release(other.first) <= release(version) <= release(other.last):
        charts = f"charts {other.first} to {other.last} write it"
        return f"{key}: a flag of older agents ({charts}), {version} may not read it"
    return None  # hidden from --help: whether this version has it is not known, and no reason to worry anybody

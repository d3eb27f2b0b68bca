"""Which keys of some settings the agents of a version do not have, and which the built-in datapath does not model."""

from __future__ import annotations

from typing import NamedTuple

from niclab.errors import Problem
from niclab.settings.flags import VERSIONS, agent_flags, release, table, unknown
from niclab.settings.model import Settings
from niclab.settings.values import parse_bool


class KeyReport(NamedTuple):
    """Errors must be fixed, warnings are worth reading."""

    errors: tuple[Problem, ...]
    warnings: tuple[str, ...]


def check_keys(settings: Settings, *, version: str) -> KeyReport:
    """Keys no agent has are errors; keys that agents of this version do not have, but others do, are warnings."""
    errors: list[Problem] = []
    warnings: list[str] = []
    here = agent_flags(version)
    for owner, values in settings.by_owner():
        for key in values:
            if words := unknown(key):
                errors.append(Problem(owner, 0, key, *words))
            elif key not in here and (warning := _version_warning(key, version)):
                warnings.append(warning)
    return KeyReport(tuple(errors), tuple(dict.fromkeys(warnings)))


def _version_warning(key: str, version: str) -> str | None:
    flag = table()[key]
    if flag.listed:
        does = "does not" if version in VERSIONS else "may not"
        return f"{key}: agents of Cilium {' and '.join(flag.listed)} have this flag, {version} {does} read it"
    first, last = flag.charts
    if flag.reader == "removed" and not release(first) <= release(version) <= release(last):
        return f"{key}: a flag of older agents (charts {first} to {last} write it), {version} may not read it"
    return None  # hidden from --help: whether this version has it is not known, and no reason to worry anybody


def unmodelled(settings: Settings) -> tuple[str, ...]:
    """The keys that may bear on which NIC carries what, are not at their default, and are not modelled, sorted."""
    pairs = {(key, value) for _, values in settings.by_owner() for key, value in values.items()}
    return tuple(sorted({key for key, value in pairs if _ignored(key, value)}))


def _ignored(key: str, value: str) -> bool:
    flag = table().get(key)
    if flag is None:
        return value not in ("", "false")
    if flag.bearing == "irrelevant" or flag.models(value):
        return False
    if ":" in flag.bearing:  # some values are modelled, and this is another one
        return True
    same = flag.type == "bool" and parse_bool(value) == (parse_bool(flag.default) or False)
    return not same and value not in (flag.default, flag.default or "false")

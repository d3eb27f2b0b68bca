"""The labs that stand in one process: built when a test first asks for one, shared by tests that ask for the same."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from niclab.check import load
from niclab.check.amend import Amendments, amend
from niclab.cilium.version import DEFAULT_VERSION
from niclab.errors import InputError, LabError
from niclab.lab import DEVICE_KEYS, Lab
from niclab.settings import LAB_BASELINE, Settings, check_keys
from niclab.topology import Topology
from niclab.topology.stacking import needs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pytest

    from niclab.agents.controlplane import Kind

_STANDING_CILIUM = 1
"""Real agents take a few hundred megabytes a node, and are told other settings in place."""
_STANDING = 4
"""How many labs stand at once: enough for tests that alternate, few enough for a small machine."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a test asks for; tests with equal wants share a lab."""

    topology: str
    settings: Settings
    version: str
    amendments: Amendments

    @property
    def kin(self) -> object:
        """What a lab that stands cannot be told: equal for labs that one lab of real agents can be after another."""
        told = tuple(sorted((key, value) for key, value in self.settings.values.items() if key not in DEVICE_KEYS))
        return self.topology, self.version, self.amendments, told, self.settings.per_node

    @classmethod
    def by(cls, item: pytest.Item, *, topology: str | None) -> Wanted:
        """What a test's marks ask for, on `topology` when that is given. Raises LabError."""
        parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
        version = str(parameters.get("cilium_version", DEFAULT_VERSION))
        return cls(_topology(item, topology), _settings(item), version, _amendments(item))


def _topology(item: pytest.Item, chosen: str | None) -> str:
    root = item.config.rootpath
    if chosen is not None:
        return _found(chosen, [Path.cwd(), root])
    name: object = "two-nic"
    for mark in item.iter_markers("topology"):
        if mark.args or not mark.kwargs:
            name = mark.args[0] if len(mark.args) == 1 else None
            break
    if not isinstance(name, str | Path):
        raise LabError("the topology mark takes one name or path", fix='e.g. @pytest.mark.topology("two-nic")')
    return _found(str(name), _above(item.path, root))


def _amendments(item: pytest.Item) -> Amendments:
    """What a test's topology marks say beside the name; marks add up, the test's own last."""
    found = Amendments()
    for mark in reversed(list(item.iter_markers("topology"))):
        try:
            found = found.merged(Amendments.of(mark.kwargs))
        except ValueError as error:
            raise LabError(
                "the topology mark does not take this",
                why=str(error),
                fix='e.g. @pytest.mark.topology("two-nic", routes=["all: 10.9.0.0/16 via 10.0.1.254"])',
            ) from None
    return found


def _above(test: Path, root: Path) -> Iterator[Path]:
    """The directories a test's topologies may be in: its own and those above, up to the root of the tests."""
    for directory in test.parents:
        yield directory
        if directory == root:
            return


def _found(name: str, places: Iterable[Path]) -> str:
    """A topology's path when it is in, or in `topologies/` of, one of these places; else the name, for `load`."""
    is_path = Path(name).suffix in (".yaml", ".yml", ".json") or "/" in name
    for place in places:
        path = place / name if is_path else place / "topologies" / f"{name}.yaml"
        if path.is_file():
            return str(path)
    return name


def _settings(item: pytest.Item) -> Settings:
    settings = LAB_BASELINE
    for mark in reversed(list(item.iter_markers("settings"))):
        for given in mark.args:
            if not isinstance(given, Settings):
                raise LabError(
                    f"the settings mark takes Settings or flags, not {given!r}",
                    fix='e.g. @pytest.mark.settings(routing="tunnel", devices="eth1")',
                )
            settings = settings.merged(given)
        settings = settings.merged(Settings.of(**mark.kwargs))
    return settings


class Standing:
    """The labs that stand, the least recently used ones first."""

    def __init__(self, datapath: str, control_plane: Kind | None, put_away: Callable[[Lab], None]) -> None:
        self._datapath = datapath
        self._control_plane = control_plane
        self._put_away = put_away
        self._limit = _STANDING if datapath == "builtin" else _STANDING_CILIUM
        self._labs: OrderedDict[Wanted, Lab] = OrderedDict()
        self._topologies: dict[str, Topology] = {}

    def needs(self, wanted: Wanted) -> tuple[str, ...]:
        """What the kernel must have for the topology. Raises LabError."""
        return needs(self._topology(wanted))

    def told_by_kubernetes(self, wanted: Wanted) -> str:
        """What agents must be told by Kubernetes objects, where there are real ones and only a kvstore; else empty."""
        from niclab.deployment import control_plane_kind, told_by_kubernetes

        if self._datapath == "builtin" or control_plane_kind(self._control_plane) == "kubernetes":
            return ""
        return told_by_kubernetes(amend(self._topology(wanted), wanted.amendments), wanted.settings)

    def _topology(self, wanted: Wanted) -> Topology:
        if wanted.topology not in self._topologies:
            self._topologies[wanted.topology] = load(wanted.topology)
        return self._topologies[wanted.topology]

    def lab(self, wanted: Wanted) -> Lab:
        """A lab as it is wanted. Raises LabError."""
        if wanted in self._labs:
            self._labs.move_to_end(wanted)
            return self._labs[wanted]
        report = check_keys(wanted.settings, version=".".join(wanted.version.split(".")[:2]))
        if report.errors:
            raise InputError(list(report.errors))
        topology = amend(self._topology(wanted), wanted.amendments)
        made = self._changed(wanted)
        if made is None:
            while len(self._labs) >= self._limit:
                self._close(self._labs.popitem(last=False)[1])
            made = Lab.deploy(
                topology,
                wanted.settings,
                datapath=self._datapath,
                cilium_version=wanted.version,
                control_plane=self._control_plane,
            )
        self._labs[wanted] = made
        return made

    def _changed(self, wanted: Wanted) -> Lab | None:
        """A standing lab of real agents that only had to be told other devices: faster than a new one."""
        for standing, lab in self._labs.items():
            same = replace(standing, settings=wanted.settings) == wanted
            if same and lab.can_change_to(wanted.settings):
                del self._labs[standing]
                try:
                    lab.change(wanted.settings)
                except BaseException:
                    self._close(lab)
                    raise
                return lab
        return None

    def _close(self, lab: Lab) -> None:
        try:
            self._put_away(lab)
        finally:
            lab.close()

    def discard(self, lab: Lab) -> None:
        """Take one lab down: whoever wants it next gets a new one."""
        for wanted in [wanted for wanted, one in self._labs.items() if one is lab]:
            self._close(self._labs.pop(wanted))

    def close(self) -> None:
        """Take every lab down, also when taking down one of them fails."""
        with contextlib.ExitStack() as undo:
            while self._labs:
                undo.callback(self._close, self._labs.popitem()[1])

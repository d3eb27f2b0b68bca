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
from niclab.errors import LabError
from niclab.lab import Lab, datapath_class
from niclab.request import DatapathName, Request, resolve
from niclab.settings import Settings, effective
from niclab.settings import load as load_settings
from niclab.topology import Topology

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    import pytest

    from niclab.agents.controlplane import Kind


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a test asks for; tests with equal wants share a lab."""

    topology: str
    settings: Settings
    version: str
    amendments: Amendments

    def without(self, keys: Collection[str]) -> object:
        """All but these settings: equal for labs that one lab can be after another when it is given these anew."""
        others = tuple(sorted((key, value) for key, value in self.settings.values.items() if key not in keys))
        return self.topology, self.version, self.amendments, others, self.settings.per_node

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
    amendments = Amendments()
    for mark in reversed(list(item.iter_markers("topology"))):
        try:
            amendments = amendments.merged(Amendments.of(mark.kwargs))
        except ValueError as error:
            raise LabError(
                "the topology mark does not take this",
                why=str(error),
                fix='e.g. @pytest.mark.topology("two-nic", routes=["all: 10.9.0.0/16 via 10.0.1.254"])',
            ) from None
    return amendments


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
    """What a test's settings marks say; marks add up, the test's own last. Raises LabError, InputError."""
    parts: list[Settings] = []
    for mark in reversed(list(item.iter_markers("settings"))):
        for given in mark.args:
            if isinstance(given, Settings):
                parts.append(given)
            elif isinstance(given, str | Path) and "=" not in str(given):
                parts.append(_settings_file(str(given), item))
            else:
                raise LabError(
                    f"the settings mark takes files, Settings or flags, not {given!r}",
                    fix='e.g. @pytest.mark.settings("values.yaml", routing="tunnel", devices="eth1")',
                )
        parts.append(Settings.of(**mark.kwargs))
    return effective(parts)


def _settings_file(name: str, item: pytest.Item) -> Settings:
    """A file of settings beside the test, or above it. Its errors name it as it is seen from here. Raises LabError."""
    places = list(_above(item.path, item.config.rootpath))
    for place in places:
        if (place / name).is_file():
            return load_settings(place / name)
    raise LabError(
        f"there is no settings file {name!r}",
        why=f"looked in {', '.join(map(str, places))}",
        fix="put it beside the test, or in a directory above it",
    )


class Pool:
    """The labs that stand, the least recently used ones first, and what each was asked for, resolved once."""

    def __init__(self, datapath: DatapathName, control_plane: Kind | None, put_away: Callable[[Lab], None]) -> None:
        self._datapath: DatapathName = datapath
        self._control_plane = control_plane
        self._put_away = put_away
        self._class = datapath_class(datapath)
        self._labs: OrderedDict[Wanted, Lab] = OrderedDict()
        self._topologies: dict[str, Topology] = {}
        self._requests: dict[Wanted, Request] = {}

    def order(self, wanted: Wanted, file: object) -> tuple[object, object]:
        """What should run together: labs that can become each other over all files, others within a file."""
        if self._class.CHANGEABLE:
            return wanted.without(self._class.CHANGEABLE), wanted
        return file, (file, wanted)

    def request(self, wanted: Wanted) -> Request:
        """What is asked for, in full. Raises LabError."""
        if wanted not in self._requests:
            if wanted.topology not in self._topologies:
                self._topologies[wanted.topology] = load(wanted.topology)
            self._requests[wanted] = resolve(
                amend(self._topologies[wanted.topology], wanted.amendments),
                wanted.settings,
                datapath=self._datapath,
                cilium_version=wanted.version,
                control_plane=self._control_plane,
            )
        return self._requests[wanted]

    def lab(self, wanted: Wanted) -> Lab:
        """A lab as it is wanted. Raises LabError."""
        if wanted in self._labs:
            self._labs.move_to_end(wanted)
            return self._labs[wanted]
        request = self.request(wanted)
        made = self._changed(wanted)
        if made is None:
            while len(self._labs) >= self._class.LABS_AT_ONCE:
                self._close(self._labs.popitem(last=False)[1])
            made = Lab.of(request)
        self._labs[wanted] = made
        return made

    def _changed(self, wanted: Wanted) -> Lab | None:
        """A standing lab whose agents only had to be given other devices: faster than a new one."""
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
        for wanted in [wanted for wanted, standing in self._labs.items() if standing is lab]:
            self._close(self._labs.pop(wanted))

    def close(self) -> None:
        """Take every lab down, also when taking down one of them fails."""
        with contextlib.ExitStack() as undo:
            while self._labs:
                undo.callback(self._close, self._labs.popitem()[1])

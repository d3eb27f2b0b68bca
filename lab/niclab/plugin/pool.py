"""The labs that stand in one process: built when a test first asks for one, shared by tests that ask for the same."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from niclab.check import load
from niclab.check.amend import Amendments, amend
from niclab.cilium.version import DEFAULT_VERSION
from niclab.errors import LabError
from niclab.lab import Lab, datapath_class
from niclab.plugin.marks import parameters
from niclab.request import DatapathName, Request, resolve
from niclab.settings import Settings, effective
from niclab.settings import load as load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

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
        version = str(parameters(item).get("cilium_version", DEFAULT_VERSION))
        return cls(_topology(item, topology), _settings(item), version, _amendments(item))


def _topology(item: pytest.Item, chosen: str | None) -> str:
    """A path when the topology is in, or in `topologies/` of, a directory of the tests'; else the name, for `load`."""
    name: object = chosen
    if chosen is None:
        naming = (mark.args for mark in item.iter_markers("topology") if mark.args or not mark.kwargs)
        names = next(naming, ("two-nic",))
        name = names[0] if len(names) == 1 else None
    if not isinstance(name, str | Path):
        raise LabError("the topology mark takes one name or path", fix='e.g. @pytest.mark.topology("two-nic")')
    places = [Path.cwd(), item.config.rootpath] if chosen is not None else _above(item)
    is_path = Path(name).suffix in (".yaml", ".yml", ".json") or "/" in str(name)
    found = _first_file(places, name if is_path else f"topologies/{name}.yaml")
    return str(found or name)


def _amendments(item: pytest.Item) -> Amendments:
    """What a test's topology marks say beside the name; marks add up, the test's own last."""
    amendments = Amendments()
    for mark in reversed(list(item.iter_markers("topology"))):
        try:
            amendments = amendments.merged(Amendments.of(mark.kwargs))
        except ValueError as error:
            fix = 'e.g. @pytest.mark.topology("two-nic", routes=["all: 10.9.0.0/16 via 10.0.1.254"])'
            raise LabError("the topology mark does not take this", why=str(error), fix=fix) from None
    return amendments


def _settings(item: pytest.Item) -> Settings:
    """What a test's settings marks say; marks add up, the test's own last. Raises LabError, InputError."""
    parts: list[Settings] = []
    for mark in reversed(list(item.iter_markers("settings"))):
        for given in mark.args:
            if isinstance(given, Settings):
                parts.append(given)
            elif not isinstance(given, str | Path) or "=" in str(given):
                raise LabError(
                    f"the settings mark takes files, Settings or flags, not {given!r}",
                    fix='e.g. @pytest.mark.settings("values.yaml", routing="tunnel", devices="eth1")',
                )
            elif path := _first_file(_above(item), given):
                parts.append(load_settings(path))
            else:
                raise LabError(
                    f"there is no settings file {str(given)!r}",
                    why=f"looked in {', '.join(map(str, _above(item)))}",
                    fix="put it beside the test, or in a directory above it",
                )
        parts.append(Settings.of(**mark.kwargs))
    return effective(parts)


def _above(item: pytest.Item) -> list[Path]:
    """The directories a test's files may be in: its own and those above, up to the root of the tests."""
    places, root = list(item.path.parents), item.config.rootpath
    return places[: places.index(root) + 1] if root in places else places


def _first_file(places: Iterable[Path], name: str | Path) -> Path | None:
    return next((place / name for place in places if (place / name).is_file()), None)


class Pool:
    """The labs that stand, the least recently used ones first, and what each was asked for, resolved once."""

    def __init__(self, datapath: DatapathName, control_plane: Kind | None, put_away: Callable[[Lab], None]) -> None:
        self._datapath: DatapathName = datapath
        self._control_plane = control_plane
        self._put_away = put_away
        self._class = datapath_class(datapath)
        self._labs: OrderedDict[Wanted, Lab] = OrderedDict()
        self._topology = cache(load)
        self.request = cache(self._resolved)
        """What is asked for, in full, resolved once. Raises LabError."""

    def order(self, wanted: Wanted, file: object) -> tuple[object, object]:
        """What should run together: labs that can become each other over all files, others within a file."""
        if self._class.CHANGEABLE:
            return wanted.without(self._class.CHANGEABLE), wanted
        return file, (file, wanted)

    def _resolved(self, wanted: Wanted) -> Request:
        return resolve(
            amend(self._topology(wanted.topology), wanted.amendments),
            wanted.settings,
            datapath=self._datapath,
            cilium_version=wanted.version,
            control_plane=self._control_plane,
        )

    def lab(self, wanted: Wanted) -> Lab:
        """A lab as it is wanted. Raises LabError."""
        if wanted in self._labs:
            self._labs.move_to_end(wanted)
            return self._labs[wanted]
        request = self.request(wanted)
        lab = self._changed(wanted)
        if lab is None:
            while len(self._labs) >= self._class.LABS_AT_ONCE:
                self._close(self._labs.popitem(last=False)[1])
            lab = Lab.of(request)
        self._labs[wanted] = lab
        return lab

    def _changed(self, wanted: Wanted) -> Lab | None:
        """A standing lab whose agents only had to be given other devices: faster than a new one."""
        for known, lab in self._labs.items():
            if replace(known, settings=wanted.settings) == wanted and lab.can_change_to(wanted.settings):
                del self._labs[known]
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
        for wanted in [wanted for wanted, known in self._labs.items() if known is lab]:
            self._close(self._labs.pop(wanted))

    def close(self) -> None:
        """Take every lab down, also when taking down one of them fails."""
        with contextlib.ExitStack() as undo:
            while self._labs:
                undo.callback(self._close, self._labs.popitem()[1])

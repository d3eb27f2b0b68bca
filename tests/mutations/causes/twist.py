"""A twist: one scenario's cause, and the lab without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from niclab.settings import Settings

TOPOLOGIES = Path(__file__).parents[3] / "topologies"


@dataclass(frozen=True)
class Twist:
    """A lab in which `scenario` must fail.

    `cause`: what is taken away, in words. `settings`: what agents are told, over what the scenario tells them.
    `without`: amendments of the scenario's own (`routes`, `rules`, `sysctls`, `node_ips`) that are left out;
    `amended`: those that come in their place. `instead`: text of the topology's file, and what stands there instead.
    `undone`: a verb (`Lab.link_down`) that does nothing. `before`: what is run on a host before the scenario, as
    `HOST: COMMAND`. `only`: parameters, as in the test's id.
    """

    scenario: str
    cause: str
    settings: Settings = field(default_factory=Settings)
    without: Sequence[str] = ()
    amended: Mapping[str, Sequence[str]] = field(default_factory=dict)
    instead: Mapping[str, str] = field(default_factory=dict)
    undone: str = ""
    before: str = ""
    only: str = ""
    version: str = "1.20"

    def topology(self, name: str, directory: Path) -> str:
        """The path of the topology's file with what is there instead, made in `directory`. Raises ValueError."""
        text = (TOPOLOGIES / f"{name}.yaml").read_text()
        for old, new in self.instead.items():
            if old not in text:
                raise ValueError(f"{self.scenario}: there is no {old!r} in {name}.yaml to take away")
            text = text.replace(old, new)
        path = directory / f"{abs(hash((name, text)))}" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)


Table = Mapping[str, Sequence[Twist]]
"""File of lab/scenarios → its twists."""

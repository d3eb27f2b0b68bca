"""Is this machine able to run the lab? Every answer comes from trying, in a place that vanishes with the trial."""

from __future__ import annotations

from typing import TYPE_CHECKING

from niclab.host.features.feature import BUILTIN, Feature
from niclab.host.features.kernel import probe_kernel
from niclab.host.features.tools import probe_docker, probe_tools

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["BUILTIN", "Feature", "packages", "probe", "required_missing"]

_APT = "apt-get install "


def probe() -> tuple[Feature, ...]:
    return (*probe_kernel(), *probe_tools(), probe_docker())


def required_missing(features: Iterable[Feature], *, needed_for: str = BUILTIN) -> tuple[Feature, ...]:
    return tuple(feature for feature in features if feature.needed_for == needed_for and not feature.present)


def packages(features: Iterable[Feature]) -> tuple[str, ...]:
    """The Debian packages that hold these features, each once, in order."""
    wanted = (feature.install.removeprefix(_APT) for feature in features if feature.install.startswith(_APT))
    return tuple(dict.fromkeys(wanted))

"""What people keep settings in: what installs the chart (k3s, RKE2, Flux, Argo CD), Talos' machine configuration, and
what an agent or a tool prints.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from niclab.settings.flags import table
from niclab.settings.helm import tree_of
from niclab.topology.yamlfile import Field, Reading, load_with_lines, scalar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WRAPPERS = ("HelmChart", "HelmChartConfig", "HelmRelease", "Application", "ApplicationSet", "Kustomization")
VALUES = "values.yaml"
"""The key of a ConfigMap that holds Helm values, for Flux's valuesFrom."""


class Layer(NamedTuple):
    """Helm values and where they stand. What is behind another layer wins."""

    values: Any
    at: Field
    reading: Reading


def is_wrapper(data: Mapping[str, Any]) -> bool:
    """Does the object install Cilium's chart?"""
    if data.get("kind") not in WRAPPERS:
        return False
    if data["kind"] == "Kustomization":
        return any(_kustomized(data, ()))
    sources = [_get(source, part) for _, source in _placed_sources(data, ()) for part in ("chart", "path", "repoURL")]
    names = [
        *(_get(data, "spec", "chart"), _get(data, "spec", "chart", "spec", "chart"), _get(data, "metadata", "name")),
        *(_get(data, "spec", "chartRef", "name"), *sources),
    ]
    texts = [name for name in names if isinstance(name, str)]
    return not texts or any("cilium" in name for name in texts)


def holds_values(data: Any) -> bool:
    """Is it a ConfigMap with Helm values?"""
    return _get(data, "kind") == "ConfigMap" and isinstance(_get(data, "data", VALUES), str)


def layers(data: Mapping[str, Any], at: Field, reading: Reading, *, beside: bool = False) -> list[Layer]:
    """The Helm values that one of `WRAPPERS` has, or a ConfigMap; `beside`: such a ConfigMap is in the same file."""
    kind, here = data["kind"], (*at, "spec")
    layers: list[Layer] = []
    if kind == "ConfigMap":
        return [*_text(_get(data, "data", VALUES), (*at, "data", VALUES), reading)]
    if kind == "Kustomization":
        return [layer for place, inline in _kustomized(data, at) for layer in _mapping(inline, place, reading)]
    if kind in ("HelmChart", "HelmChartConfig"):
        layers += _text(_get(data, "spec", "valuesContent"), (*here, "valuesContent"), reading)
        settings = _get(data, "spec", "set")
        if isinstance(settings, dict):
            pairs = {
                str(path): scalar(value) for path, value in settings.items() if not isinstance(value, (dict, list))
            }
            layers.append(_parameters(pairs, (*here, "set"), reading))
    elif kind == "HelmRelease":
        layers += _mapping(_get(data, "spec", "values"), (*here, "values"), reading)
        _elsewhere(not beside and _get(data, "spec", "valuesFrom"), (*here, "valuesFrom"), reading)
    else:
        for path, source in _placed_sources(data, at):
            where, helm = (*path, "helm"), _get(source, "helm")
            layers += _text(_get(helm, "values"), (*where, "values"), reading)
            layers += _mapping(_get(helm, "valuesObject"), (*where, "valuesObject"), reading)
            _elsewhere(_get(helm, "valueFiles"), (*where, "valueFiles"), reading)
            if isinstance(given := _get(helm, "parameters"), list):
                pairs = {scalar(_get(each, "name")): scalar(_get(each, "value")) for each in given}
                layers.append(_parameters(pairs, (*where, "parameters"), reading))
    if not layers and not beside:
        fix = "name the file with the values, or write them into this object"
        reading.problem(here, f"the {kind} has no values in it", fix)
    return layers


def merged(layers: list[Layer]) -> tuple[dict[str, Any], Reading]:
    """The layers' values as one document, mappings merged as Helm does, and where each stands."""
    if not layers:
        return {}, Reading("", lambda *_: 0)
    values: dict[str, Any] = {}
    for layer in layers:
        values = _over(values, layer.values)

    def line_of(_: int, field: Field) -> int:
        holder = next((layer for layer in reversed(layers) if _holds(layer.values, field)), None)
        return layers[0].reading.line(layers[0].at) if holder is None else holder.reading.line((*holder.at, *field))

    reading = layers[0].reading
    return values, Reading(reading.name, line_of, reading.warnings)


def inline_manifests(data: Any, at: Field, reading: Reading) -> list[Layer]:
    """The objects in a Talos machine configuration (`cluster.inlineManifests`)."""
    manifests = _get(data, "cluster", "inlineManifests")
    if not isinstance(manifests, list) or "kind" in data:
        return []
    where = (*at, "cluster", "inlineManifests")
    return [
        layer
        for index, manifest in enumerate(manifests)
        for layer in _text(_get(manifest, "contents"), (*where, index, "contents"), reading, mappings=False)
    ]


def viewed(text: str) -> dict[str, str]:
    """The keys that `cilium config view` prints, in two columns; none where the text is something else."""
    pairs: dict[str, str] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([a-z0-9][a-z0-9._-]*)(?:(\s+)(.*))?", line.rstrip())
        if match and (len(match[2] or "  ") > 1 or match[1] in table()):
            pairs[match[1]] = match[3] or ""
        elif line.strip() and not pairs:
            return {}  # behind a key it is the rest of a value of several lines
    return pairs if any(pairs.values()) and len(pairs.keys() & table().keys()) * 2 > len(pairs) else {}


_MESSAGE = re.compile(r'\bmsg"?[=:]\s*("(?:[^"\\]|\\.)*")')
_SETTING = re.compile(r"\s*--([a-z0-9][a-z0-9-]*)='(.*)'", re.DOTALL)


def logged(text: str) -> dict[str, str]:
    """The flags that an agent writes to its log when it starts (pkg/option/config.go LogRegisteredSlogOptions)."""
    if "--" not in text or "msg" not in text:
        return {}
    pairs: dict[str, str] = {}
    for record in _MESSAGE.finditer(text):
        try:
            message = json.loads(record[1], strict=False)
        except ValueError:
            continue
        if match := _SETTING.fullmatch(message):
            several = re.fullmatch(r"\[([^][{}\"]*)\]", match[2])  # a list as Go prints it
            pairs[match[1]] = several[1] if several else match[2]
    return pairs


def _get(data: Any, *path: str) -> Any:
    for part in path:
        data = data.get(part) if isinstance(data, dict) else None
    return data


def _placed_sources(data: Mapping[str, Any], at: Field) -> Iterator[tuple[Field, Any]]:
    """An Argo CD Application's sources, and where they stand; an ApplicationSet has a template of one."""
    path = ("spec", "template", "spec") if data.get("kind") == "ApplicationSet" else ("spec",)
    spec = _get(data, *path)
    if (source := _get(spec, "source")) is not None:
        yield (*at, *path, "source"), source
    several = _get(spec, "sources")
    for index, source in enumerate(several if isinstance(several, list) else []):
        yield (*at, *path, "sources", index), source


def _kustomized(data: Mapping[str, Any], at: Field) -> Iterator[tuple[Field, Any]]:
    """The values of a Kustomization's charts of Cilium, and where they stand."""
    charts = data.get("helmCharts")
    for index, chart in enumerate(charts if isinstance(charts, list) else []):
        if "cilium" in scalar(_get(chart, "name")) and _get(chart, "valuesInline") is not None:
            yield (*at, "helmCharts", index, "valuesInline"), chart["valuesInline"]


def _text(text: Any, at: Field, reading: Reading, *, mappings: bool = True) -> Iterator[Layer]:
    """The YAML documents in a text: a block's lines are those of the file."""
    if text is None:
        return
    if not isinstance(text, str):
        reading.problem(at, "a text is wanted", "write it as a block: |")
        return
    first = reading.line(at) - (0 if "\n" in text else 1)  # a block begins below its key
    documents, line_of = load_with_lines("\n" * max(first, 0) + text, reading.name)
    inner = Reading(reading.name, line_of, reading.warnings)
    for number, document in enumerate(documents):
        if document is not None and mappings:
            yield from _mapping(document, (number,), inner)
        elif document is not None:
            yield Layer(document, (number,), inner)
    inner.problems.finish()


def _mapping(values: Any, at: Field, reading: Reading) -> Iterator[Layer]:
    if values is not None:
        yield Layer(reading.mapping(values, at, "write Helm values below it"), at, reading)


def _parameters(pairs: Mapping[str, str], at: Field, reading: Reading) -> Layer:
    """What is given as `helm --set` does, one value each."""
    line = reading.line(at)
    return Layer(tree_of(pairs, reading.name, line), at, Reading(reading.name, lambda *_: line, reading.warnings))


def _elsewhere(given: Any, at: Field, reading: Reading) -> None:
    if given:
        reading.warn("values that stand elsewhere are not read: give their file, too", at)


def _over(lower: Any, upper: Any) -> Any:
    if not isinstance(lower, dict) or not isinstance(upper, dict):
        return upper
    return {**lower, **{key: _over(lower.get(key), value) for key, value in upper.items()}}


def _holds(values: Any, field: Field) -> bool:
    for part in field:
        if not isinstance(values, dict):
            return True  # a list: its key's line will do
        if part not in values:
            return False
        values = values[part]
    return True

"""Reading settings from any file people have; the content decides which format it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from niclab.errors import InputError, Problem, Problems, closest
from niclab.settings.assignments import looks_like_flags, parse_flags
from niclab.settings.helm import HEADINGS, parse_helm
from niclab.settings.helm_table import scalar
from niclab.settings.keys import key_problem, spelled
from niclab.settings.kubernetes import CONFIG_MAP, ObjectReader
from niclab.settings.model import Settings
from niclab.settings.values import Values, complaint
from niclab.topology.yamlfile import Field, LineOf, dotted, load_with_lines, read_text, refuse_long

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = ("ConfigMap", "CiliumNodeConfig", "CiliumConfig", "List")


def load(path: Path | str) -> Settings:
    """Settings from a file of any format `loads` knows."""
    path = Path(path)
    return loads(read_text(path), name=str(path))


def loads(text: str, *, name: str) -> Settings:
    """Settings from a text; `name` is the file's name in errors and warnings.

    It may be the `cilium-config` ConfigMap, CiliumNodeConfig objects, a List or several documents of these, Helm values
    (also as `helm get values` prints them), a flags file, a mapping of flags, or the CiliumConfig sketch of articles;
    YAML or JSON. `Settings.base` says what it leaves open: see `niclab.settings.effective`.
    """
    refuse_long(len(text), name)
    if looks_like_flags(text):
        return parse_flags(text, name)
    documents, line_of = load_with_lines(text, name)
    objects = [item for number, data in enumerate(documents) for item in _objects(data, number, ())]
    if not objects:
        why = "the file is empty"
        raise InputError([Problem(name, 1, "", why, "write settings, for example devices=eth0,eth1")])
    reader = ObjectReader(name, line_of)
    parts = [_object(item, reader) for item in _chosen(objects, reader)]
    reader.finish()
    result = Settings()
    for part in parts:
        result = result.merged(part)
    ignored = _ignored(objects, name)
    return replace(result, warnings=(*result.warnings, *ignored))


_Item = tuple[Any, int, Field]


def _objects(data: Any, document: int, at: Field) -> Iterator[_Item]:
    """The objects of a document, a List's items one by one."""
    if data is None:
        return
    if isinstance(data, dict) and isinstance(data.get("items"), list) and str(data.get("kind", "")).endswith("List"):
        for index, item in enumerate(data["items"]):
            yield from _objects(item, document, (*at, "items", index))
    elif isinstance(data, list) and data and all(isinstance(item, dict) and "kind" in item for item in data):
        for index, item in enumerate(data):
            yield from _objects(item, document, (*at, index))
    else:
        yield data, document, at


def _is_config(data: Any) -> bool:
    """Whether an object holds settings at all."""
    return not isinstance(data, dict) or "kind" not in data or data["kind"] in KINDS


def _is_other_config_map(data: Any) -> bool:
    if not isinstance(data, dict) or data.get("kind") != "ConfigMap":
        return False
    return _name(data) != CONFIG_MAP


def _name(data: dict[Any, Any]) -> str:
    """An object's name, "" where it has none."""
    metadata = data.get("metadata")
    return scalar(metadata.get("name")) if isinstance(metadata, dict) else ""


def _chosen(objects: list[_Item], reader: ObjectReader) -> list[_Item]:
    chosen = [item for item in objects if _is_config(item[0])]
    if len(chosen) > 1:
        # A namespace's dump holds other ConfigMaps too; a single one is meant, whatever its name.
        chosen = [item for item in chosen if not _is_other_config_map(item[0])]
    if not chosen:
        data, document, at = objects[0]
        kind = str(data.get("kind"))
        near = closest(kind, KINDS) if len(objects) == 1 else None
        fix = f"did you mean kind {near}?" if near else f"give a file with the ConfigMap {CONFIG_MAP} or Helm values"
        why = f"a {kind} holds no settings of Cilium"
        reader.problems.append(Problem(reader.name, reader.line_of(document, (*at, "kind")), "kind", why, fix))
    names = [(data["kind"], _name(data)) for data, _, _ in chosen if _named(data)]
    for kind, object_name in sorted({pair for pair in names if names.count(pair) > 1}):
        why = f"{kind} {object_name} is there twice"
        reader.problems.append(Problem(reader.name, 0, "metadata.name", why, "keep one of them"))
    return chosen


def _named(data: Any) -> bool:
    return isinstance(data, dict) and "kind" in data and isinstance(data.get("metadata"), dict)


def _object(item: _Item, reader: ObjectReader) -> Settings:
    (data, document, at), name, line_of = item, reader.name, reader.line_of
    if not isinstance(data, dict):
        why = "neither a mapping nor KEY=VALUE lines"
        raise InputError([Problem(name, line_of(document, at), dotted(at), why, "write for example devices=eth0,eth1")])
    kind = data.get("kind")
    if kind == "ConfigMap":
        return reader.config_map(data, document, at)
    if kind == "CiliumNodeConfig":
        return reader.node_config(data, document, at)
    if kind == "CiliumConfig":
        spec = data.get("spec")
        if data.get("apiVersion") == "cilium.io/v1alpha1" and isinstance(spec, dict):
            return parse_helm(spec, name, line_of, document=document, under=(*at, "spec"))
        return reader.article(data, document, at)
    if _are_flags(data):
        return _flags(data, document, at, name, line_of)
    return parse_helm(data, name, line_of, document=document, under=at)


def _are_flags(data: dict[Any, Any]) -> bool:
    """A mapping whose keys have dashes holds flags; no Helm value of the first level has one."""
    return any("-" in str(key) for key in data if key not in HEADINGS)


def _flags(data: dict[Any, Any], document: int, at: Field, name: str, line_of: LineOf) -> Settings:
    values: dict[str, str] = {}
    problems = Problems()
    for word, value in data.items():
        key, field = spelled(str(word)), (*at, str(word))
        line = line_of(document, field)
        text = ",".join(scalar(part) for part in value) if isinstance(value, list) else scalar(value)
        if isinstance(value, dict):
            problems.append(Problem(name, line, dotted(field), "a plain value or a list is wanted", "write text"))
        elif problem := key_problem(key, name, line):
            problems.append(replace(problem, field=dotted(field)))
        elif words := complaint(key, text):
            problems.append(Problem(name, line, dotted(field), *words))
        values[key] = text
    problems.finish()
    return Settings(Values(values))


def _ignored(objects: list[_Item], name: str) -> list[str]:
    """The objects that were passed over."""
    several = sum(_is_config(data) for data, _, _ in objects) > 1
    passed = [
        f"{data.get('kind')} {_name(data)}".strip()
        for data, _, _ in objects
        if isinstance(data, dict) and (not _is_config(data) or (several and _is_other_config_map(data)))
    ]
    return [f"{name}: passed over, no settings of Cilium: {', '.join(passed)}"] if passed else []

"""The JSON Schema of topology files, for editors; the committed copy is kept fresh by a test."""

from __future__ import annotations

import json
from typing import Any

from niclab.topology.model import Topology

# Names may carry ranges and `{n}`, which the models' own patterns for names do not know.
_NAMES = {
    "hosts": r"^[a-z0-9]([a-z0-9-]|\{n\}|\[[0-9]+-[0-9]+\])*$",
    "nics": r"^[A-Za-z0-9_]([A-Za-z0-9_.-]|\{n\}|\[[0-9]+-[0-9]+\])*$",
    "links": r"^[A-Za-z0-9_]([A-Za-z0-9_.-]|\{n\}|\[[0-9]+-[0-9]+\])*$",
    "services": r"^[a-z]([a-z0-9-]|\{n\}|\[[0-9]+-[0-9]+\])*$",
}


def schema() -> str:
    """The schema as JSON text."""
    document = Topology.model_json_schema()
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    document["title"] = "niclab topology"
    for model in (document, *document["$defs"].values()):
        for name, field in model["properties"].items():
            model["properties"][name] = _as_written(name, field)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _as_written(name: str, field: dict[str, Any]) -> dict[str, Any]:
    """What a file may say beyond the model: one instead of a list, pods by name, ranges in keys, nothing at all."""
    field = {key: value for key, value in field.items() if key != "title"}
    description = {"description": field.pop("description")} if "description" in field else {}
    patterned = field.pop("patternProperties", None)
    if patterned:
        field["additionalProperties"] = next(iter(patterned.values()))
        field["propertyNames"] = {"pattern": _NAMES.get(name, _NAMES["hosts"])}
    if name == "fabrics":
        field["additionalProperties"] = _or_nothing(field["additionalProperties"])
    if name == "pools":
        cidrs = field["additionalProperties"]
        field["additionalProperties"] = {"anyOf": [cidrs["items"], cidrs, {"type": "null"}]}
    if name == "sysctls":
        field["additionalProperties"] = {"type": ["string", "integer", "boolean"]}
        field["propertyNames"] = {"pattern": "^net[./]"}
    if name == "pods" and patterned:
        field["additionalProperties"] = _or_nothing(field["additionalProperties"])
        names = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
        field.pop("default")
        return {**description, "anyOf": [names, {"type": "string"}, {"type": "null"}, field]}
    arrays = [choice for choice in field.get("anyOf", ()) if choice.get("type") == "array"]
    if arrays:  # a list that may be absent, which is not the same as empty
        return {**description, "anyOf": [arrays[0]["items"], *field["anyOf"]]}
    if field.get("type") == "array":
        field.pop("default", None)
        if "minLength" in field:  # pydantic's word, where something reads the value before the list is made
            field["minItems"] = field.pop("minLength")
        return {**description, "anyOf": [field["items"], field, {"type": "null"}]}
    if field.get("default") == {}:
        return {**description, **field, "type": ["object", "null"]}
    return {**description, **field}


def _or_nothing(kind: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [kind, {"type": "null"}]}

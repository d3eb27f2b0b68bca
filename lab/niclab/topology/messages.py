"""Pydantic's findings in the words of a topology file: where, why, how to fix it."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from niclab.errors import Finding, nearest
from niclab.topology.model import Topology
from niclab.topology.yamlfile import Field, data_lines

_HOST_NAME = "lower-case letters, digits and dashes, at most 32"
_NIC_NAME = "letters, digits, `_`, `.` and `-`, at most 15"
_SERVICE_NAME = "lower-case letters, digits and dashes, at most 32, a letter first"
_PLAIN = {
    "less_than_equal": "{given} is more than {le}",
    "greater_than_equal": "{given} is less than {ge}",
    "literal_error": "{given} is none of {expected}",
    "bool_type": "{given} is neither true nor false",
    "too_short": "there is none",
}


@cache
def fixes() -> dict[str, str]:
    """How to fix a field, by its name."""
    return dict(line.split(" ", 1) for line in data_lines("niclab.topology", "fixes.txt"))


def explain(error: dict[str, Any]) -> Finding:
    """One entry of `ValidationError.errors()`."""
    path: Field = error["loc"]
    if path[-1:] == ("[key]",):
        path = path[:-1]
        return Finding(path, f"{path[-1]!r} is not a name that can be used here", _fix_name(path, error))
    kind, given, context = error["type"], _shown(error.get("input")), error.get("ctx", {})
    if kind == "extra_forbidden":
        return Finding(
            path,
            f"there is no field {path[-1]!r} here",
            nearest(str(path[-1]), (_model(path[:-1]) or Topology).model_fields),
        )
    if kind == "missing":
        fix = _fix(path) if path[-1] in fixes() else f"add `{path[-1]}: …`"
        fix = fixes()["bgp"] if path[0] == "bgp" and len(path) == 2 else fix
        return Finding(path, f"the field {path[-1]!r} is missing", fix)
    if kind == "value_error":
        return Finding(path, str(context["error"]), _fix(path))
    if kind == "string_pattern_mismatch":
        return Finding(path, f"{given} is no {_field(path)}", _fix(path))
    if kind == "string_type":
        return Finding(path, f"{given} is not text", "put it in quotes")
    if kind.startswith("int_"):
        return Finding(path, f"{given} is not a whole number", _fix(path))
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return Finding(path, f"{given} is not a mapping", _fix_mapping(path))
    if kind in _PLAIN:
        return Finding(path, _PLAIN[kind].format(given=given, **context), _fix(path))
    return Finding(path, f"{error['msg'][0].lower()}{error['msg'][1:]} (got {given})", _fix(path))


def _shown(value: Any) -> str:
    """A value as the file has it, not too long."""
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:56]}…{text[-1]}"


def _model(path: Field) -> type[BaseModel] | None:
    """The model whose fields stand at a path such as `nodes.NAME`; None where names stand, or a value."""
    model: type[BaseModel] = Topology
    parts = iter(path)
    for part in parts:
        field = model.model_fields.get(str(part))
        below = _model_in(field.annotation) if field else None
        if field is None or below is None or (get_origin(field.annotation) is dict and next(parts, None) is None):
            return None
        model = below
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := _model_in(inner))), None)


def _fix_mapping(path: Field) -> str:
    if path == ("bgp", "routers"):
        return "routers: {tor0: {asn: 65010}}"
    if model := _model(path):
        return f"write its fields: {', '.join(model.model_fields)}"
    return fixes().get(_field(path), "write `name: …` entries below it")


def _fix_name(path: Field, error: dict[str, Any]) -> str:
    if error["type"] == "string_type":
        return f'put it in quotes: "{path[-1]}"'
    if len(path) >= 2 and path[-2] == "services":
        return _SERVICE_NAME
    return _NIC_NAME if len(path) >= 2 and path[-2] in ("nics", "links") else _HOST_NAME


def _field(path: Field) -> str:
    return next((str(part) for part in reversed(path) if isinstance(part, str)), "")


def _fix(path: Field) -> str:
    if path[2:3] == ("pods",) and path[4:5] == ("addresses",):
        return "write the address alone, e.g. 10.244.1.10"
    return fixes().get(_field(path), "see the JSON Schema: niclab validate --schema")

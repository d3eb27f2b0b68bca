"""Topology files: YAML with line numbers in, validated models out, and the JSON Schema editors use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lab.errors import InputError, LabError, Problem
from lab.topology import rules
from lab.topology.expand import RangeError, expand
from lab.topology.model import External, Fabric, Nic, Node, Pod, Router, Topology
from lab.yamlfile import load_with_lines, read_text

Field = tuple[str | int, ...]

_FIELDS: dict[str, type] = {
    "": Topology,
    "fabrics": Fabric,
    "nodes": Node,
    "externals": External,
    "routers": Router,
    "nics": Nic,
    "pods": Pod,
}


def directories() -> tuple[Path, ...]:
    """Where topologies are looked up by name: ./topologies, then the ones shipped with the package."""
    package = Path(__file__).resolve().parent.parent
    return Path.cwd() / "topologies", package / "_topologies", package.parent / "topologies"


def names() -> list[str]:
    """Every topology that can be named without a path."""
    return sorted({path.stem for directory in directories() for path in directory.glob("*.yaml")})


def find(name: str) -> Path:
    """The file of a topology given by name or path. Raises LabError."""
    given = Path(name)
    if given.suffix in (".yaml", ".yml", ".json") or "/" in name:
        return given
    for directory in directories():
        path = directory / f"{name}.yaml"
        if path.is_file():
            return path
    raise LabError(
        f"no topology is named {name!r}",
        why=f"looked for {name}.yaml in {directories()[0]} and among the shipped ones",
        mend=rules.nearest(name, names()) + ", or give the path of a YAML file",
    )


def load(name: str | Path) -> Topology:
    """A topology by name or path. Raises InputError with every problem found, LabError when there is no such file."""
    path = find(str(name))
    return loads(read_text(path), str(path))


def loads(text: str, name: str) -> Topology:
    """A topology from YAML text; `name` is the file's name in errors. Raises InputError."""
    documents, line_of = load_with_lines(text, name)
    if len(documents) != 1 or not isinstance(documents[0], dict):
        why = f"the file holds {len(documents)} documents" if len(documents) != 1 else "not a mapping"
        raise InputError([Problem(name, 1, "", why, "one mapping with name, fabrics and nodes makes a topology")])
    try:
        data, origin = expand(documents[0])
    except RangeError as error:
        field = ".".join(map(str, error.path))
        raise InputError(
            [Problem(name, line_of(0, error.path), field, str(error), "write node[1-8], low before high")]
        ) from None

    def problem(path: Field, why: str, mend: str) -> Problem:
        known = path
        while known and known not in origin:
            known = known[:-1]
        return Problem(
            name, line_of(0, origin.get(known, ()) + path[len(known) :]), ".".join(map(str, path)), why, mend
        )

    try:
        topology = Topology.model_validate(data)
    except ValidationError as error:
        raise InputError([problem(*_explain(dict(details))) for details in error.errors()]) from None
    findings = rules.check(topology)
    if findings:
        raise InputError([problem(finding.path, finding.why, finding.mend) for finding in findings])
    return topology


def _explain(error: dict[str, Any]) -> tuple[Field, str, str]:
    """Pydantic's finding in words: path, why, how to mend. Generic validators' messages help nobody (netlab #521)."""
    path = tuple(part for part in error["loc"] if part != "[key]" and not _is_type_name(part))
    kind, given = error["type"], error.get("input")
    if kind == "extra_forbidden":
        return path, f"there is no field {path[-1]!r} here", rules.nearest(str(path[-1]), _fields_at(path[:-1]))
    if kind == "missing":
        return path, f"the field {path[-1]!r} is missing", f"add {path[-1]}: to {_place(path[:-1])}"
    if kind == "value_error":
        return path, str(error["ctx"]["error"]), _mend_for(path)
    if kind.startswith("ip_"):
        return path, f"{given!r} is not an IP address or network", _mend_for(path)
    if kind == "string_pattern_mismatch":
        return (
            path,
            f"{given!r} is not a name that can be used here",
            "letters, digits and dashes; NIC names ≤ 15 bytes",
        )
    return path, f"{error['msg'][0].lower()}{error['msg'][1:]} (got {given!r})", _mend_for(path)


def _is_type_name(part: str | int) -> bool:
    """Pydantic adds the tried union members to a location; they are no fields of the file."""
    return isinstance(part, str) and (
        part.startswith(("IPv4", "IPv6", "function-", "constrained-", "tuple[", "nullable"))
    )


def _place(path: Field) -> str:
    return ".".join(map(str, path)) or "the top of the file"


def _fields_at(path: Field) -> list[str]:
    section = ""
    if path:
        section = str(path[-2]) if len(path) >= 2 and path[-2] in _FIELDS else str(path[0])
    model = _FIELDS.get(section)
    return list(model.model_fields) if model else []  # type: ignore[attr-defined]  # all are pydantic models


def _mend_for(path: Field) -> str:
    field = next((str(part) for part in reversed(path) if isinstance(part, str)), "")
    return {
        "addresses": "write ADDRESS/LENGTH, e.g. 10.0.0.1/24",
        "routes": "write iproute2's words, e.g. default via 10.0.0.254 dev eth0",
        "rules": "write iproute2's words, e.g. from 10.244.1.0/24 lookup 100",
        "flows": "write FROM -> TO, e.g. pod1 -> ext1:udp:53",
        "mtu": "a whole number of bytes, 68 to 65535",
        "up": "true or false",
        "node_ip": "one address, or a list of one IPv4 and one IPv6 address",
        "pod_cidrs": "networks, e.g. 10.244.1.0/24",
        "subnets": "networks, e.g. 10.0.0.0/24",
    }.get(field, "see the JSON Schema: `niclab validate --schema`")


def schema() -> str:
    """The JSON Schema of topology files, for editors; the committed copy is checked against this by a test."""
    document = Topology.model_json_schema()
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    document["title"] = "niclab topology"
    _relax(document)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _relax(document: dict[str, Any]) -> None:
    """Say what the file format takes beyond the model: one instead of a list, pods by name, ranges in keys."""
    node = document["$defs"]["Node"]["properties"]
    node["pods"] = {
        "description": node["pods"].get("description", ""),
        "anyOf": [{"type": "array", "items": {"type": "string"}}, node["pods"]],
    }
    for owner, field in (("Node", "node_ip"), ("Node", "pod_cidrs"), ("Fabric", "subnets"), ("Pod", "addresses")):
        properties = document["$defs"][owner]["properties"]
        properties[field] = {
            "description": properties[field].get("description", ""),
            "anyOf": [{"type": "string"}, properties[field]],
        }
    for value in list(document["properties"].values()) + list(document["$defs"]["Node"]["properties"].values()):
        # Ranges such as node[1-8] are keys too, which the model's own patterns for names do not know.
        if "patternProperties" in value:
            value["additionalProperties"] = next(iter(value.pop("patternProperties").values()))
    for host in ("Node", "External", "Router"):
        sysctls = document["$defs"][host]["properties"]["sysctls"]
        sysctls["additionalProperties"] = {"type": ["string", "integer"]}


__all__ = ["directories", "find", "load", "loads", "names", "schema"]

"""The JSON Schemas in the repository: fresh, right about what is right, and strict about what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from niclab.check import loads
from niclab.topology.file import find, names
from niclab.topology.schema import schema

from tests.support.golden_files import DIRECTORY
from tests.support.topologies import BASE

COMMITTED = Path(__file__).parents[2] / "lab" / "niclab" / "schemas" / "topology.schema.json"


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    document = json.loads(schema())
    Draft202012Validator.check_schema(document)
    return Draft202012Validator(document)


def test_the_committed_schema_is_fresh() -> None:
    hint = "run: niclab validate --schema > lab/niclab/schemas/topology.schema.json"
    assert COMMITTED.read_text() == schema(), f"the models have changed: {hint}"


@pytest.mark.parametrize("name", names())
def test_it_takes_every_topology_as_written(validator: Draft202012Validator, name: str) -> None:
    assert [error.message for error in validator.iter_errors(_plain(find(name).read_text()))] == []


@pytest.mark.parametrize("name", names())
def test_every_topology_names_it_for_editors(name: str) -> None:
    first, second, *_ = find(name).read_text().splitlines()
    assert first == "# yaml-language-server: $schema=../lab/niclab/schemas/topology.schema.json"
    assert second == f"name: {name}"


def test_every_bound_is_of_its_type() -> None:
    """A word that is not of a schema's type says nothing: `minLength` is of texts, `minItems` of lists."""
    kinds = {
        "minLength": "string",
        "maxLength": "string",
        "pattern": "string",
        "minItems": "array",
        "maxItems": "array",
    }
    kinds |= {"uniqueItems": "array", "minProperties": "object", "minimum": "integer", "maximum": "integer"}

    def wrong(part: Any) -> list[tuple[str, Any]]:
        if isinstance(part, list):
            return [found for each in part for found in wrong(each)]
        if not isinstance(part, dict):
            return []
        here = [
            (word, part["type"]) for word in part.keys() & kinds.keys() if part.get("type", kinds[word]) != kinds[word]
        ]
        return here + [found for each in part.values() for found in wrong(each)]

    assert [found for path in COMMITTED.parent.glob("*.json") for found in wrong(json.loads(path.read_text()))] == []
    assert '"minItems": 1' in schema()


SHORT = """\
name: short
fabrics: {f0: , f1: {subnets: [10.0.0.0/24, 'fd00::/64']}}
nodes:
  node[01-02]:
    nics:
      eth[0-1]: {fabric: f0, addresses: }
      up: {fabric: f1, addresses: '10.0.0.{n}/24', mac: 'AA:00:00:00:00:0{n}'}
    routes: default dev up
    rules:
    sysctls: {net.ipv4.conf.all.arp_ignore: 1, net.ipv4.conf.all.arp_announce: '2', net/ipv6/conf/up/accept_ra: false}
    pod_cidrs: ['10.244.{n}.0/24']
    pods: {'pod{n}': , 'web{n}': {addresses: '10.244.{n}.7'}}
    labels:
externals:
flows: pod1 -> pod2:udp:53
"""


def test_it_takes_what_may_be_left_out_or_written_short(validator: Draft202012Validator) -> None:
    assert [error.message for error in validator.iter_errors(_plain(SHORT))] == []
    topology = loads(SHORT, "short.yaml")
    node = topology.nodes["node02"]
    assert [*node.nics] == ["eth0", "eth1", "up"]
    assert str(node.nics["up"].addresses[0]) == "10.0.0.2/24"
    assert node.nics["up"].mac == "aa:00:00:00:00:02"
    assert node.sysctls["net/ipv6/conf/up/accept_ra"] == "0"
    assert [*map(str, topology.pod_addresses()["web2"])] == ["10.244.2.7"]


@pytest.mark.parametrize(
    "name",
    [
        "unknown-field-at-the-top",
        "unknown-field-of-a-node",
        "unknown-field-of-a-nic",
        "unknown-field-of-a-fabric",
        "missing-name",
        "missing-fabric",
        "no-fabrics",
        "no-nics",
        "a-nic-that-is-text",
        "name-that-is-a-number",
        "name-with-a-blank",
        "host-name-with-capitals",
        "address-without-a-prefix",
        "mtu-70000",
        "mtu-in-words",
        "up-maybe",
        "sysctl-of-the-machine",
        "sysctls-as-a-list",
        "route-that-is-a-mapping",
        "label-that-is-a-number",
    ],
)
def test_it_refuses_what_an_editor_can_see(validator: Draft202012Validator, name: str) -> None:
    assert list(validator.iter_errors(_plain((DIRECTORY / "topology-errors" / f"{name}.yaml").read_text())))


def test_it_takes_the_base_of_the_mistakes(validator: Draft202012Validator) -> None:
    assert list(validator.iter_errors(_plain(BASE))) == []


def _plain(text: str) -> Any:
    return yaml.safe_load(text)

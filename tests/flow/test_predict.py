"""`niclab predict`: the NIC matrix without a kernel, quickly; interchangeable nodes are predicted once."""

from __future__ import annotations

import itertools
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from niclab import LAB_BASELINE, Flow, Settings, World, load
from niclab.check import loads
from niclab.cilium.decisions import Decisions
from niclab.cilium.version import Version
from niclab.cli import COULD_NOT_RUN, PASS
from niclab.flow.predict import interchangeable
from niclab.net.route import parse_route, parse_rule
from niclab.report import predicted
from niclab.topology.model import Topology

from tests.support.command import here
from tests.support.golden_files import assert_golden

COMMITTED = Path(__file__).parents[2] / "lab" / "niclab" / "schemas" / "predict.schema.json"
ROWS = [word for devices in ("", "eth0", "eth1", "eth0,eth1", "eth9") for word in ("--devices", devices)]
SECONDS = 1.0
NEW = Version(1, 20)
BUSY = 4.0
"""How much longer a busy machine may take: processes there wait for each other's caches too."""

HUNDRED = """\
name: hundred
fabrics: {f0: {subnets: 10.0.0.0/24}, f1: {subnets: 10.0.1.0/24}}
nodes:
  node[1-100]:
    nics:
      eth0: {fabric: f0, addresses: "10.0.0.{n}/24"}
      eth1: {fabric: f1, addresses: "10.0.1.{n}/24"}
    routes: [default via 10.0.0.254 dev eth0]
    node_ip: 10.0.0.{n}
    pod_cidrs: 10.244.{n}.0/24
    pods: ["pod{n}"]
routers:
  gw:
    nics:
      p0: {fabric: f0, addresses: 10.0.0.254/24}
      p1: {fabric: f1, addresses: 10.0.1.254/24}
    routes: ["10.244.[1-100].0/24 via 10.0.0.[1-100]"]
externals:
  ext0: {nics: {eth0: {fabric: f0, addresses: 10.0.0.200/24}}, routes: ["10.244.[1-100].0/24 via 10.0.0.[1-100]"]}
"""


def test_the_committed_schema_is_fresh() -> None:
    hint = "run: niclab validate --schema predict > lab/niclab/schemas/predict.schema.json"
    assert COMMITTED.read_text() == predicted.Forecast.contract("niclab predict"), hint
    jsonschema.Draft202012Validator.check_schema(json.loads(predicted.Forecast.contract("niclab predict")))


@pytest.mark.parametrize("version", ["1.18", "1.20"])
def test_what_a_person_reads(version: str) -> None:
    done = here("predict", "two-nic", "--cilium-version", version, *ROWS)
    assert (done.status, done.err) == (PASS, "")
    assert_golden(f"predict-two-nic-{version}.txt", done.out)


def told(*words: str) -> dict[str, Any]:
    done = here("predict", *words, "-o", "json")
    assert done.status == PASS, done.err
    found: dict[str, Any] = json.loads(done.out)
    jsonschema.validate(found, json.loads(COMMITTED.read_text()))
    return found


def test_as_json() -> None:
    found = told("two-nic", "--flow", "pod1 -> ext1:tcp:443", "--devices", "eth0", "--devices", "eth9")
    (leak,) = found["rows"][0]["flows"]
    assert (leak["from"], leak["to"], leak["text"], leak["loud"]) == (
        "pod1",
        "ext1:tcp:443",
        "eth1 pod address!",
        True,
    )
    (way,) = leak["ways"]
    assert (way["requests_by"], way["arrived"], way["source"]) == (["node1.eth1"], "ext1", "10.244.1.10")
    (exits,) = found["rows"][1]["flows"]
    assert (exits["ways"], exits["text"]) == ([], "agent exits")
    assert set(found["rows"][1]["agent_exits"]) == {"node1", "node2"}


def test_without_flows_every_pair_of_nodes() -> None:
    (row,) = told("single-nic", "--flow", "pod1 -> pod2")["rows"]
    assert [flow["stands_for"] for flow in row["flows"]] == [1]
    world = world_of(loads(HUNDRED.replace("[1-100]", "[1-3]"), "three"))
    assert {str(flow): alike for flow, alike in predicted.columns(world).items()} == {"pod1 -> pod2": 6}
    assert here("predict", "two-nic", "--flow", "pod1 -> nobody").status == COULD_NOT_RUN


def world_of(topology: Topology, version: Version = NEW, **settings: str | bool) -> World:
    return World(Decisions(topology, LAB_BASELINE.merged(Settings.of(**settings)), version))


def four(**changes: object) -> Topology:
    """Four nodes that are interchangeable but for what is changed of node3."""
    made = loads(HUNDRED.replace("[1-100]", "[1-4]"), "four")
    odd = made.nodes["node3"].model_copy(update=changes)
    return made.model_copy(update={"nodes": {**made.nodes, "node3": odd}})


def groups(topology: Topology) -> set[str]:
    return {"".join(name[-1] for name in group) for group in interchangeable.classes(world_of(topology).decisions)}


def test_what_tells_nodes_apart() -> None:
    plain = four()
    nics = plain.nodes["node3"].nics
    default = parse_route("default via 10.0.0.254 dev eth0")
    assert groups(plain) == {"1234"}
    assert groups(four(routes=(default, parse_route("10.9.0.0/24 via 10.0.1.254")))) == {"124", "3"}
    assert groups(four(routes=(parse_route("default via 10.0.0.1 dev eth0"),))) == {"1", "24", "3"}
    assert groups(four(rules=(parse_rule("from 10.244.3.0/24 lookup 100"),))) == {"124", "3"}
    assert groups(four(rules=(parse_rule("from 10.244.2.0/24 lookup 100"),))) == {"14", "2", "3"}
    assert groups(four(rules=(parse_rule("to 10.0.0.0/30 lookup 100"),))) == {"12", "3", "4"}
    assert groups(four(node_ip=(nics["eth1"].addresses[0].ip,))) == {"124", "3"}
    assert groups(four(sysctls={"net.ipv4.fib_multipath_hash_policy": "1"})) == {"124", "3"}
    assert groups(four(nics={**nics, "eth1": nics["eth1"].model_copy(update={"up": False})})) == {"124", "3"}
    assert groups(four(nics={**nics, "eth1": nics["eth1"].model_copy(update={"mtu": 9000})})) == {"124", "3"}
    assert groups(four(nics={**nics, "eth1": nics["eth0"]})) == {"1", "2", "3", "4"}
    assert groups(four(pods={})) == {"124", "3"}
    assert groups(four(pools={"other": plain.nodes["node3"].pod_cidrs})) == {"1", "2", "3", "4"}


def test_a_setting_that_names_one_nodes_address_tells_that_node_apart() -> None:
    decisions = world_of(four(), routing="native", ipv4_native_routing_cidr="10.0.0.2/32").decisions
    assert interchangeable.classes(decisions) == (("node1", "node3", "node4"), ("node2",))


@pytest.mark.parametrize("name", ["two-nic", "three-nic", "eight-nodes", "asymmetric", "dual-stack", "routed"])
@pytest.mark.parametrize("version", [Version(1, 18), Version(1, 20)])
@pytest.mark.parametrize("routing", ["tunnel", "native"])
def test_interchangeable_nodes_have_interchangeable_flows(name: str, version: Version, routing: str) -> None:
    """What is predicted for the representatives holds for every pair they stand for."""
    topology = load(name)
    more: dict[str, str | bool] = {"enable_ipv6": True}
    if routing == "native":
        more |= {
            "ipv4_native_routing_cidr": "10.244.0.0/16",
            "ipv6_native_routing_cidr": "fd00:10:244::/48",
            "auto_direct_node_routes": True,
        }
    for devices in ("", "eth0", "eth0,eth1"):
        world = world_of(topology, version, routing=routing, devices=devices, **more)
        found = interchangeable.classes(world.decisions)
        assert sorted(itertools.chain(*found)) == sorted(topology.nodes)
        if name in ("two-nic", "eight-nodes"):
            assert len(found) == 1
        for mine, theirs in itertools.product(found, found):
            looks = {
                predicted.cell(world, flow, world.predict(flow))
                for a, b in itertools.product(mine, theirs)
                if a != b
                for flow in [Flow(source=one(topology, a), destination=one(topology, b))]
            }
            assert len(looks) <= 1, (mine, theirs)


def one(topology: Topology, node: str) -> str:
    return next(iter(topology.nodes[node].pods), f"{node}.{next(iter(topology.nodes[node].nics))}")


def test_a_hundred_nodes_in_a_second(tmp_path: Path) -> None:
    """The whole process, imports included, by the processor's clock: a busy machine's other work is not counted."""
    path = tmp_path / "hundred.yaml"
    path.write_text(HUNDRED)
    command = [sys.executable, "-m", "niclab.cli", "predict", str(path), "--devices", "", "--devices", "eth0,eth1"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "pod1→pod2 and 9899 like it" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < SECONDS * BUSY

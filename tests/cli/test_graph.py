"""Topologies as pictures: what is drawn, and that Mermaid and Graphviz can read it."""

from __future__ import annotations

import html
import re
import shutil
import subprocess

import pytest
from niclab.check import load, loads
from niclab.cli import graph
from niclab.topology.file import names
from niclab.topology.model import Topology

from tests.support.busy import PATIENCE
from tests.support.golden_files import assert_golden

ODD = """\
name: odd
fabrics: {end: {}, o1: {}, x-2: {subnets: 'fd00::/64'}}
nodes:
  subgraph:
    nics:
      eth.0: {fabric: end, addresses: 10.0.0.1/24, up: false}
      eth_0: {fabric: o1, mtu: 9000}
      eth-0: {fabric: x-2, addresses: 'fd00::1/64'}
  style:
    nics:
      graph: {fabric: end, addresses: 10.0.0.2/24}
    pod_cidrs: 10.244.0.0/24
    pods: [end-pod, click]
"""


def mermaid(topology: Topology) -> str:
    return "\n".join(graph.mermaid(topology)) + "\n"


def dot(topology: Topology) -> str:
    return "\n".join(graph.dot(topology)) + "\n"


@pytest.mark.parametrize("name", ["two-nic", "routed"])
def test_the_picture_is_the_one_last_looked_at(name: str) -> None:
    assert_golden(f"{name}.mmd", mermaid(load(name)))
    assert_golden(f"{name}.dot", dot(load(name)))


def every() -> list[Topology]:
    return [*map(load, names()), loads(ODD, "odd.yaml")]


@pytest.mark.parametrize("topology", every(), ids=lambda topology: topology.name)
def test_everything_is_drawn_once_and_every_cable(topology: Topology) -> None:
    drawn, wired = mermaid(topology), dot(topology)
    nodes = re.findall(r"^ +(?:subgraph )?(\w+)[\[(]", drawn, flags=re.MULTILINE)
    nics = list(topology.nic_pairs())
    assert len(nodes) == len(set(nodes)) == len(topology.hosts) + len(nics) + len(topology.pods) + len(topology.fabrics)
    cables = re.findall(r"^  (\w+) (?:---|-\.-) (\w+)$", drawn, flags=re.MULTILINE)
    assert len(cables) == len(nics) == wired.count(" -- ")
    assert {end for cable in cables for end in cable} <= set(nodes)
    for _, name, nic in nics:
        assert all(text in drawn and text in wired for text in (name, *map(str, nic.addresses)))


def test_words_of_the_languages_are_only_names() -> None:
    drawn = mermaid(loads(ODD, "odd.yaml"))
    assert "eth.0 · down<br/>10.0.0.1/24 (node IP)" in drawn
    assert "eth_0 · MTU 9000" in drawn
    assert drawn.count("-.-") == 1
    # `end` alone on a line closes a subgraph; no other line is that word.
    assert drawn.splitlines().count("  end") == 2


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs graphviz")
@pytest.mark.parametrize("topology", every(), ids=lambda topology: topology.name)
def test_graphviz_reads_it(topology: Topology) -> None:
    done = subprocess.run(
        ["dot", "-Tsvg"], input=dot(topology), capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert not done.stderr
    assert all(f">{name}<" in html.unescape(done.stdout) for name in topology.fabrics)

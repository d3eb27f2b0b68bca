"""A range makes a list of any text that stands where a list may, and of nothing else."""

from __future__ import annotations

import pytest
from niclab.check import loads
from niclab.errors import InputError

TEXT = """
name: ranges
description: a [0-9] of no meaning
fabrics: {"f[0-1]": }
nodes:
  node[1-2]:
    nics:
      eth0: {fabric: f0, addresses: "10.0.0.{n}/24"}
      eth1: {fabric: f1}
      eth2: {fabric: f1}
    links: {bond0: {bond: "eth[1-2]", addresses: "10.1.0.{n}/24"}}
    routes: "10.9.[1-3].0/24 dev bond0"
    pod_cidrs: "10.244.{n}.0/24"
    pods: "pod{n}-[1-2]"
    rules: "from 10.244.{n}.[1-2] lookup 100"
flows: "pod1-[1-2] -> node2.eth0"
"""


def test_a_text_with_a_range_is_a_list_where_a_list_may_stand() -> None:
    topology = loads(TEXT, "ranges.yaml")
    node = topology.nodes["node2"]
    assert [str(route.destination) for route in node.routes] == ["10.9.1.0/24", "10.9.2.0/24", "10.9.3.0/24"]
    assert [str(rule) for rule in node.rules] == ["from 10.244.2.1/32 lookup 100", "from 10.244.2.2/32 lookup 100"]
    assert list(topology.pods) == ["pod1-1", "pod1-2", "pod2-1", "pod2-2"]
    assert node.links["bond0"].bond == ("eth1", "eth2")
    assert [str(flow) for flow in topology.flows] == ["pod1-1 -> node2.eth0", "pod1-2 -> node2.eth0"]
    assert topology.description == "a [0-9] of no meaning"


@pytest.mark.parametrize(
    ("before", "after", "line", "why"),
    [
        ("{fabric: f1}", 'fabric: "f[0-1]"', 8, "there is no fabric 'f[0-1]'"),
        ('"10.9.[1-3].0/24 dev bond0"', '"10.9.[1-3].0/24 dev bond7"', 11, "bond7"),
        ('"10.9.[1-3].0/24 dev bond0"', '"10.9.[1-3].0/24 via 10.1.0.[1-2]"', 11, "differ in length"),
        ('"pod1-[1-2] -> node2.eth0"', '"pod1-[1-3] -> node2.eth0"', 15, "'pod1-3' is neither"),
    ],
)
def test_what_is_wrong_is_at_its_line(before: str, after: str, line: int, why: str) -> None:
    with pytest.raises(InputError) as raised:
        loads(TEXT.lstrip().replace(before, after if "{" not in before else f"{{{after}}}", 1), "ranges.yaml")
    assert why in str(raised.value)
    assert line in {problem.line for problem in raised.value.problems}

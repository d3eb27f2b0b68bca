"""Which of a service's backends is asked, on a real kernel: one for each client, where the service says so."""

from __future__ import annotations

import pytest
from niclab import Lab
from niclab.check import loads
from niclab.settings import LAB_BASELINE, Settings

from tests.support.kernel import privileged

THREE = """\
name: three
fabrics: {f0: {subnets: 10.0.0.0/24}}
nodes:
  node[1-3]:
    nics: {eth0: {fabric: f0, addresses: "10.0.0.{n}/24"}}
    pod_cidrs: 10.244.{n}.0/24
    pods: ["pod{n}"]
externals: {ext: {nics: {eth0: {fabric: f0, addresses: 10.0.0.100/24}}}}
services:
  sticky: {type: NodePort, port: 80, node_port: 30080, session_affinity: ClientIP, pods: [pod2, pod3]}
  loose: {type: NodePort, port: 81, node_port: 30081, pods: [pod2, pod3]}
"""


@privileged
@pytest.mark.parametrize("client", ["ext", "pod1"])
def test_session_affinity(client: str) -> None:
    """Real agents of 1.18.10 did the same: 12 of 12 probes to one backend, without affinity 8 and 4."""
    with Lab.deploy(loads(THREE, "three"), LAB_BASELINE.merged(Settings.of(devices="eth0"))) as lab:
        where = {"ext": ("node1.eth0:tcp:30080", "node1.eth0:tcp:30081"), "pod1": ("sticky", "loose")}[client]
        sticky, loose = (lab.send(client, target, count=16) for target in where)
        answered = [{node for node in ("node2", "node3") if flow.answered_by(node)} for flow in (sticky, loose)]
        assert [len(nodes) for nodes in answered] == [1, 2]

"""What is wrong in a topology file is said with file, line, field, why and how to mend it."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from niclab.check import loads
from niclab.errors import InputError, LabError
from niclab.topology import find

from tests.support.golden_files import assert_golden

BASE = """\
name: base
fabrics:
  f0: {subnets: 10.0.0.0/24}
  f1: {subnets: 10.0.1.0/24}
routers:
  gw:
    nics:
      p0: {fabric: f0, addresses: [10.0.0.254/24]}
      p1: {fabric: f1, addresses: [10.0.1.254/24]}
nodes:
  node[1-2]:
    nics:
      eth0: {fabric: f0, addresses: ["10.0.0.{n}/24"]}
      eth1:
        fabric: f1
        addresses: ["10.0.1.{n}/24"]
    routes:
      - default via 10.0.0.254 dev eth0
    node_ip: 10.0.0.{n}
    pod_cidrs: 10.244.{n}.0/24
    pods:
      - pod{n}
externals:
  ext1:
    nics:
      eth0: {fabric: f1, addresses: [10.0.1.100/24]}
    routes:
      - 10.244.[1-2].0/24 via 10.0.1.[1-2]
      - default via 10.0.1.254
flows:
  - pod1 -> pod2
  - pod1 -> ext1
"""

NIC = "        fabric: f1\n"
ROUTE = "      - default via 10.0.0.254 dev eth0\n"
NODE_IP = "    node_ip: 10.0.0.{n}\n"
EXT = "eth0: {fabric: f1, addresses: [10.0.1.100/24]}"

# What is replaced, by what; each is one mistake.
MISTAKES: dict[str, tuple[str, str]] = {
    "YAML syntax": ("  f0: {subnets", "  f0: {subnets: ["),
    "a tab": ("  gw:", "\tgw:"),
    "a key twice": ("  f1: {", "  f0: {"),
    "unknown field at the top": ("routers:", "router:"),
    "unknown field of a node": ("    node_ip:", "    nodeip:"),
    "unknown field of a NIC": ("        addresses:", "        adresses:"),
    "unknown field of a fabric": ("f0: {subnets", "f0: {subnet"),
    "unknown field of a pod": ("      - pod{n}", "      pod{n}: {adresses: 10.244.1.7}"),
    "missing name": ("name: base\n", ""),
    "missing fabric": (NIC, ""),
    "no fabrics": ("fabrics:\n  f0: {subnets: 10.0.0.0/24}\n  f1: {subnets: 10.0.1.0/24}\n", "fabrics:\n"),
    "no NICs": ("    nics:\n      " + EXT, "    nics: {}"),
    "nodes as a list": ("  node[1-2]:\n    nics:", "  - nics:"),
    "a NIC that is text": (EXT, "eth0: f1"),
    "name with a blank": ("name: base", "name: My Lab"),
    "name that is a number": ("name: base", "name: 5"),
    "host name with capitals": ("  ext1:", "  Ext_1:"),
    "host name too long": ("  ext1:", f"  {'e' * 33}:"),
    "host name that is a number": ("  ext1:", "  5:"),
    "host name of the lab's own": ("  gw:", "  fabric:"),
    "host name twice": ("  gw:", "  ext1:"),
    "NIC name too long": ("p1: {", "p123456789012345: {"),
    "NIC name of Cilium's": ("p1: {", "cilium_host: {"),
    "fabric name too long": ("  f1: {subnets: 10.0.1.0/24}", "  f1: {subnets: 10.0.1.0/24}\n  fabric-of-the-rack: {}"),
    "pod name with capitals": ("      - pod{n}", "      - Pod{n}"),
    "pod name twice": ("      - pod{n}", "      - pod{n}\n      - pod{n}"),
    "pod named as another node's": ("      - pod{n}", "      - pod{n}\n      - web"),
    "pod that is a list": ("      - pod{n}", "      - [pod]"),
    "unknown fabric": (NIC, "        fabric: f3\n"),
    "unknown NIC in a route": ("via 10.0.0.254 dev eth0", "via 10.0.0.254 dev eth2"),
    "unknown NIC in ECMP": (ROUTE, "      - default nexthop via 10.0.0.254 nexthop via 10.0.1.254 dev eth9\n"),
    "gateway out of reach": ("via 10.0.0.254 dev", "via 10.9.0.254 dev"),
    "gateway on another NIC": ("via 10.0.0.254 dev eth0", "via 10.0.0.254 dev eth1"),
    "route on a NIC that is down": (EXT, EXT.replace("{", "{up: false, ")),
    "route that nobody understands": (ROUTE, "      - default via 10.0.0.254 dve eth0\n"),
    "route cut short": (ROUTE, "      - default via 10.0.0.254 dev\n"),
    "route with host bits": (ROUTE, "      - 10.9.0.1/16 via 10.0.0.254\n"),
    "route that is a mapping": (ROUTE, "      - default: 10.0.0.254\n"),
    "route twice": (ROUTE, ROUTE + "      - default via 10.0.0.253\n"),
    "route the kernel has": (ROUTE, "      - 10.0.0.0/24 dev eth0\n"),
    "route with a foreign source": (ROUTE, "      - default via 10.0.0.254 src 10.0.0.9\n"),
    "metric out of range": (ROUTE, "      - default via 10.0.0.254 metric -1\n"),
    "wrong entry after a range": ("      - default via 10.0.1.254", "      - default via 10.0.9.254"),
    "rule without a table": (NODE_IP, "    rules: [from 10.244.1.0/24 priority 5]\n"),
    "rule with an unknown NIC": (NODE_IP, "    rules: [from all iif eth7 lookup 100]\n"),
    "rule twice": (
        NODE_IP,
        "    rules:\n      - from all lookup 100 priority 5\n      - from all lookup 100 priority 5\n",
    ),
    "address without a prefix": ('        addresses: ["10.0.1.{n}/24"]', '        addresses: ["10.0.1.{n}"]'),
    "address with a wrong prefix": ('        addresses: ["10.0.1.{n}/24"]', '        addresses: ["10.0.1.{n}/33"]'),
    "address that is none": ('        addresses: ["10.0.1.{n}/24"]', '        addresses: ["10.0.1.300/24"]'),
    "address that is a number": (EXT, "eth0: {fabric: f1, addresses: 5}"),
    "address twice": ("10.0.1.100/24", "10.0.1.1/24"),
    "address of a network": ("10.0.1.100/24", "10.0.1.0/24"),
    "address outside the fabric": (
        "p1: {fabric: f1, addresses: [10.0.1.254/24]",
        "p1: {fabric: f1, addresses: [10.7.1.9/24]",
    ),
    "address of a group": ("p1: {fabric: f1, addresses: [10.0.1.254/24]", "p1: {fabric: f1, addresses: [224.0.0.5/24]"),
    "pod CIDRs overlap": ("10.244.{n}.0/24", "10.244.0.0/16"),
    "pod CIDR with host bits": ("10.244.{n}.0/24", "10.244.{n}.1/24"),
    "pod CIDR without a prefix": ("10.244.{n}.0/24", "10.244.{n}.0"),
    "pod CIDR holds a NIC": ("10.244.{n}.0/24", "10.0.{n}.0/24"),
    "pod CIDR too small": ("10.244.{n}.0/24", "10.244.{n}.0/31"),
    "pod CIDRs of one family": (
        "    pod_cidrs: 10.244.{n}.0/24",
        "    pod_cidrs: ['10.244.{n}.0/24', '10.245.{n}.0/24']",
    ),
    "pods without a CIDR": ("    pod_cidrs: 10.244.{n}.0/24\n", ""),
    "pod address outside its CIDR": ("      - pod{n}", "      pod{n}: {addresses: '10.99.1.{n}'}"),
    "pod address of the router": ("      - pod{n}", "      pod{n}: {addresses: '10.244.{n}.1'}"),
    "pod address with a prefix": ("      - pod{n}", "      pod{n}: {addresses: '10.244.{n}.9/24'}"),
    "node IP of no NIC": (NODE_IP, "    node_ip: 10.0.0.7\n"),
    "node IP that is none": (NODE_IP, "    node_ip: ten\n"),
    "node IPs of one family": (NODE_IP, "    node_ip: ['10.0.0.{n}', '10.0.1.{n}']\n"),
    "MTU 67": (NIC, NIC + "        mtu: 67\n"),
    "MTU 1279 with IPv6": (
        NIC,
        NIC
        + "        mtu: 1279\n"
        + "      eth2: {fabric: f1, mtu: 1279, addresses: ['fd00::{n}/64']}\n      eth3:\n"
        + NIC,
    ),
    "MTU 70000": (NIC, NIC + "        mtu: 70000\n"),
    "MTU in words": (NIC, NIC + "        mtu: jumbo\n"),
    "MTU with a fraction": (NIC, NIC + "        mtu: 1500.5\n"),
    "up: maybe": (NIC, NIC + "        up: maybe\n"),
    "MAC twice": (NIC, NIC + "        mac: 02:00:00:00:00:01\n"),
    "MAC of a group": ("p1: {", "p1: {mac: '01:00:00:00:00:01', "),
    "MAC cut short": ("p1: {", "p1: {mac: '02:00:00:00:01', "),
    "sysctl of the machine": (NODE_IP, "    sysctls: {kernel.hostname: lab}\n"),
    "sysctl that climbs out": (NODE_IP, "    sysctls: {net/../kernel/hostname: lab}\n"),
    "sysctl of an unknown NIC": (NODE_IP, "    sysctls: {net.ipv4.conf.eth7.rp_filter: 1}\n"),
    "sysctls as a list": (NODE_IP, "    sysctls: [net.ipv4.ip_forward]\n"),
    "flow to nobody": ("  - pod1 -> ext1", "  - pod1 -> ext9"),
    "flow to a node": ("  - pod1 -> ext1", "  - pod1 -> node2"),
    "flow to itself": ("  - pod1 -> ext1", "  - pod1 -> pod1"),
    "flow without an arrow": ("  - pod1 -> ext1", "  - pod1 to ext1"),
    "flow without a port": ("  - pod1 -> ext1", "  - pod1 -> ext1:udp"),
    "flow of a strange protocol": ("  - pod1 -> ext1", "  - pod1 -> ext1:sctp:5"),
    "label that is a number": (NODE_IP, "    labels: {rack: 5}\n"),
    "huge range": ("node[1-2]", "node[1-99999]"),
    "range backwards": ("node[1-2]", "node[2-1]"),
    "ranges of different lengths": ("10.0.1.[1-2]", "10.0.1.[1-3]"),
    "range that repeats a name": ("  node[1-2]:", "  node1: {nics: {eth0: {fabric: f0}}}\n  node[1-2]:"),
    "{n} outside a range": (EXT, "eth0: {fabric: f1, addresses: ['10.0.1.{n}/24']}"),
    "{n} in a name outside a range": ("  ext1:", "  ext{n}:"),
}

SERVED = BASE.replace(
    "flows:\n", "services:\n  web: {type: NodePort, port: 80, node_port: 30080, pods: [pod1]}\nflows:\n"
)
# The same, of the base with a service.
SERVICE_MISTAKES: dict[str, tuple[str, str]] = {
    "service without a port": ("port: 80, ", ""),
    "service of a strange type": ("NodePort", "nodeport"),
    "service of a strange protocol": ("port: 80", "port: 80, protocol: sctp"),
    "service with an unknown field": ("port: 80", "port: 80, targetPort: 8080"),
    "service port 0": ("port: 80", "port: 0"),
    "target port by name": ("port: 80", "port: 80, target_port: http"),
    "service name with a digit first": ("  web:", "  8web:"),
    "service named as a pod": ("  web:", "  pod1:"),
    "service of the API server": ("  web:", "  kubernetes:"),
    "service of an unknown pod": ("[pod1]", "[pod9]"),
    "backend twice": ("[pod1]", "[pod1, pod1]"),
    "node port out of range": ("30080", "8080"),
    "node port of a ClusterIP": ("NodePort", "ClusterIP"),
    "node port twice": ("[pod1]}\n", "[pod1]}\n  shop: {type: NodePort, port: 81, node_port: 30080}\n"),
    "load balancer of a NodePort": ("port: 80", "port: 80, load_balancer_ip: 192.0.2.80"),
    "external policy of a ClusterIP": (
        "type: NodePort, port: 80, node_port: 30080",
        "port: 80, external_traffic_policy: Local",
    ),
    "strange policy": ("port: 80", "port: 80, internal_traffic_policy: None"),
    "cluster IP with a prefix": ("port: 80", "port: 80, cluster_ip: 10.96.0.80/32"),
    "cluster IP of elsewhere": ("port: 80", "port: 80, cluster_ip: 10.9.0.80"),
    "cluster IP of the API server": ("port: 80", "port: 80, cluster_ip: 10.96.0.1"),
    "cluster IP twice": (
        "port: 80, node_port: 30080, pods: [pod1]}\n",
        "port: 80, cluster_ip: 10.96.0.80}\n  shop: {port: 81, cluster_ip: 10.96.0.80}\n",
    ),
    "cluster IPs of one family": ("port: 80", "port: 80, cluster_ip: [10.96.0.80, 10.96.0.81]"),
    "external IP of a NIC": ("port: 80", "port: 80, external_ips: 10.0.1.1"),
    "external IP of a pod CIDR": ("port: 80", "port: 80, external_ips: [192.0.2.80, 10.244.2.80]"),
    "external IP of the service CIDR": ("port: 80", "port: 80, external_ips: 10.96.0.80"),
    "NIC in the service CIDR": ("10.0.1.100/24", "10.0.1.100/24, 10.96.1.1/24"),
    "NIC whose network holds the service CIDR": ("10.0.1.100/24", "10.0.1.100/24, 10.97.0.1/12"),
    "link in the service CIDR": (NODE_IP, "    links: {lo: {addresses: '10.96.0.{n}/32'}}\n"),
    "pod CIDR in the service CIDR": ("10.244.{n}.0/24", "10.96.{n}.0/24"),
    "pool in the service CIDR": ("    pod_cidrs:", "    pools: {disks: '10.96.{n}.0/24'}\n    pod_cidrs:"),
    "external IP of a group": ("port: 80", "port: 80, external_ips: 224.0.0.5"),
    "external IP and port twice": (
        "[pod1]}\n",
        "[pod1], external_ips: 192.0.2.80}\n  shop: {port: 80, external_ips: 192.0.2.80}\n",
    ),
    "flow from a service": ("flows:\n", "flows:\n  - web -> pod1\n"),
    "flow to another port of a service": ("flows:\n", "flows:\n  - pod1 -> web:tcp:81\n"),
    "flow from outside to a NodePort's name": ("flows:\n", "flows:\n  - ext1 -> web\n"),
    "flow to a service that is not there": ("flows:\n", "flows:\n  - ext1 -> wbe\n"),
}

GATED = BASE.replace(
    "flows:\n",
    "egress_policies:\n  out: {pods: pod1, destinations: 10.0.1.0/24, gateways: node2, interface: eth1}\nflows:\n",
)
EGRESS_MISTAKES: dict[str, tuple[str, str]] = {
    "egress policy of no pod": ("pods: pod1, ", ""),
    "egress policy of an unknown pod": ("pods: pod1, ", "pods: pod9, "),
    "egress policy of labels no pod has": ("pods: pod1, ", "labels: {app: web}, "),
    "egress policy of a pod, and of labels no pod has": ("pods: pod1, ", "pods: pod1, labels: {app: web}, "),
    "egress policy without destinations": ("destinations: 10.0.1.0/24, ", ""),
    "egress policy excluding what it does not have": ("gateways", "excluded: 10.0.2.0/24, gateways"),
    "egress policy without a gateway": ("gateways: node2, ", ""),
    "egress gateway that is no node": ("gateways: node2", "gateways: gw"),
    "egress interface of no NIC": ("interface: eth1", "interface: eth2"),
    "egress interface and IP": ("interface: eth1", "interface: eth1, egress_ip: 10.0.1.2"),
    "egress IP of another node": ("interface: eth1", "egress_ip: 10.0.1.1"),
    "egress IP of another family": ("interface: eth1", "egress_ip: 'fd00::1'"),
    "egress policy with an unknown field": ("interface: eth1", "egressIP: 10.0.1.2"),
}

POOLED = BASE.replace(
    "    pods:\n      - pod{n}", "    pools: {disks: '10.245.{n}.0/24'}\n    pods: {'pod{n}': {pool: disks}}"
)
POOL_MISTAKES: dict[str, tuple[str, str]] = {
    "unknown pool": ("pool: disks", "pool: discs"),
    "default pool among the others": ("pools: {disks", "pools: {default: '10.246.{n}.0/24', disks"),
    "pool CIDRs that overlap": ("10.245.{n}.0/24", "10.245.0.0/24"),
    "pool inside a pod CIDR": ("10.245.{n}.0/24", "10.244.{n}.0/25"),
    "pool of a NIC's addresses": ("10.245.{n}.0/24", "10.0.1.0/24"),
    "pool too small": ("10.245.{n}.0/24", "10.245.{n}.0/31"),
    "pool with a CIDR of another length": ("disks: '10.245.{n}.0/24'", "disks: ['10.245.{n}.0/24', '10.246.{n}.0/25']"),
    "address of another pool": ("pool: disks", "pool: disks, addresses: '10.244.{n}.9'"),
}

CLOUD = """\
name: cloud
fabrics: {f0: {subnets: 10.0.0.0/24}}
vpc: 10.0.0.0/16
routers:
  gw: {nics: {p0: {fabric: f0, addresses: 10.0.0.1/24}}}
nodes:
  node1:
    nics:
      eth0: {fabric: f0, addresses: 10.0.0.11/24, pod_addresses: 10.0.0.16/28}
      eth1: {fabric: f0, addresses: 10.0.0.12/24}
    pods: {pod1: {nic: eth0}}
"""
CLOUD_MISTAKES: dict[str, tuple[str, str]] = {
    "NIC of a pod without pod addresses": ("nic: eth0", "nic: eth1"),
    "pod addresses of another subnet": ("pod_addresses: 10.0.0.16/28", "pod_addresses: 10.0.1.16/28"),
    "pod addresses of IPv6": ("pod_addresses: 10.0.0.16/28", "pod_addresses: 'fd00::/64'"),
    "pod addresses that a NIC has": ("pod_addresses: 10.0.0.16/28", "pod_addresses: 10.0.0.8/29"),
    "pod addresses beside pod CIDRs": ("    pods:", "    pod_cidrs: 10.244.1.0/24\n    pods:"),
    "subnet without its gateway": ("addresses: 10.0.0.1/24", "addresses: 10.0.0.254/24"),
    "subnet outside the vpc": ("vpc: 10.0.0.0/16", "vpc: 10.1.0.0/16"),
    "vpc without pod addresses": (", pod_addresses: 10.0.0.16/28}", "}"),
}

FAR = "  far:\n    nics: {p0: {fabric: f2, addresses: 10.0.2.1/24}}\n"
SPEAKING = (
    BASE.replace("routers:\n", "  f2: {}\nrouters:\n" + FAR)
    + "bgp:\n  nodes: {asn: 65000}\n  routers:\n    gw: {asn: 65010}\n"
)
# The same, of the base with BGP.
BGP_MISTAKES: dict[str, tuple[str, str]] = {
    "BGP without nodes": ("  nodes: {asn: 65000}\n", ""),
    "BGP without routers": ("  routers:\n    gw: {asn: 65010}\n", ""),
    "BGP without an AS number": ("gw: {asn: 65010}", "gw: {}"),
    "BGP router that is a number": ("gw: {asn: 65010}", "gw: 65010"),
    "BGP with AS number 0": ("asn: 65010", "asn: 0"),
    "BGP with an AS number in words": ("asn: 65010", "asn: AS65010"),
    "BGP with one AS number for all": ("asn: 65010", "asn: 65000"),
    "BGP of an unknown router": ("    gw: {asn", "    gv: {asn"),
    "BGP of a router that has no peer": (
        "  routers:\n    gw: {asn: 65010}\n",
        "  routers:\n    gw: {asn: 65010}\n    far: {asn: 65011}\n",
    ),
    "BGP with an unknown field": ("  nodes: {asn: 65000}\n", "  nodes: {asn: 65000}\n  neighbours: [gw]\n"),
    "BGP router with an unknown field": ("{asn: 65010}", "{asn: 65010, network: 10.9.0.0/24}"),
    "BGP node with networks": ("{asn: 65000}", "{asn: 65000, networks: 10.9.0.0/24}"),
    "BGP network without a prefix": ("{asn: 65010}", "{asn: 65010, networks: 10.9.0.0}"),
    "BGP that advertises something else": ("bgp:\n", "bgp:\n  advertise: pods\n"),
    "BGP that advertises nothing": ("bgp:\n", "bgp:\n  advertise: []\n"),
    "BGP with a hold time of 1 s": ("bgp:\n", "bgp:\n  timers: {hold: 1}\n"),
    "BGP with late keepalives": ("bgp:\n", "bgp:\n  timers: {keepalive: 9}\n"),
    "BGP with a timer that is none": ("bgp:\n", "bgp:\n  timers: {dead: 9}\n"),
}

FILES = {
    "empty file": "",
    "only a comment": "# nothing\n",
    "a list instead of a mapping": "- a\n- b\n",
    "text instead of a mapping": "nodes\n",
    "two documents": f"{BASE}---\n{BASE}",
    "no root field": "{}",
}


def reported(text: str) -> str:
    with pytest.raises(InputError) as caught:
        loads(text, "lab.yaml")
    return str(caught.value)


def test_every_mistake_is_explained() -> None:
    """One golden file, to be read as a whole: whoever makes these mistakes reads nothing else."""
    parts = []
    for name, (old, new) in MISTAKES.items():
        assert BASE.count(old) >= 1, name
        parts.append(f"# {name}\n{reported(BASE.replace(old, new, 1))}\n")
    others = (SERVED, SERVICE_MISTAKES), (GATED, EGRESS_MISTAKES), (POOLED, POOL_MISTAKES), (CLOUD, CLOUD_MISTAKES)
    for base, mistakes in (*others, (SPEAKING, BGP_MISTAKES)):
        loads(base, "lab.yaml")
        for name, (old, new) in mistakes.items():
            assert base.count(old) >= 1, name
            parts.append(f"# {name}\n{reported(base.replace(old, new, 1))}\n")
    parts += [f"# {name}\n{reported(text)}\n" for name, text in FILES.items()]
    assert_golden("topology-errors.txt", "\n".join(parts))


def test_an_external_ip_of_a_pool() -> None:
    text = SERVED.replace("    pod_cidrs:", "    pools: {disks: '192.0.{n}.0/24'}\n    pod_cidrs:")
    words = reported(text.replace("port: 80", "port: 80, external_ips: 192.0.2.80"))
    assert words.splitlines()[0].endswith("192.0.2.80 is inside node2's pod CIDR 192.0.2.0/24")


@pytest.mark.parametrize("name", MISTAKES)
def test_the_line_is_one_that_was_changed(name: str) -> None:
    """The first problem stands in what was changed, or at its parent's line where something was taken away."""
    old, new = MISTAKES[name]
    text = BASE.replace(old, new, 1)
    with pytest.raises(InputError) as caught:
        loads(text, "lab.yaml")
    first = BASE.count("\n", 0, BASE.index(old)) + 1
    lines = {problem.line for problem in caught.value.problems}
    wide = name in {"YAML syntax", "host name twice"} or not new.strip() or name.startswith("missing")
    around = range(first - 1, first + max(new.count("\n"), 1) + 3)
    allowed = range(1, len(text.splitlines()) + 1) if wide else around
    assert lines & set(allowed), (lines, allowed)
    assert all(problem.why and problem.fix and problem.file == "lab.yaml" for problem in caught.value.problems)


def test_the_base_is_right() -> None:
    assert loads(BASE, "lab.yaml").name == "base"
    assert [*loads(SERVED, "lab.yaml").services] == ["web"]


def test_what_a_range_multiplies_is_said_once() -> None:
    text = BASE.replace("node[1-2]", "node[1-90]").replace("dev eth0", "dev eth5")
    with pytest.raises(InputError) as caught:
        loads(text, "lab.yaml")
    assert [problem.line for problem in caught.value.problems] == [18]
    assert "and so for 89 more" in caught.value.problems[0].why


def test_every_problem_is_found_at_once_in_the_files_order() -> None:
    text = (
        BASE.replace("fabric: f1\n", "fabric: f7\n").replace("pod1 -> ext1", "pod1 -> ext2").replace("p1: {", "lo: {")
    )
    with pytest.raises(InputError) as caught:
        loads(text, "lab.yaml")
    assert [problem.line for problem in caught.value.problems] == [9, 15, 32]


def test_a_topology_that_is_not_there() -> None:
    with pytest.raises(LabError) as caught:
        find("two-nick")
    assert caught.value.what == "no topology is named 'two-nick'"
    assert caught.value.fix.startswith("did you mean 'two-nic'?")
    for odd in ("x" * 5000, "a\0b"):
        with pytest.raises(LabError):
            find(odd)


_LINES = BASE.splitlines(keepends=True)
_JUNK = st.sampled_from(
    ["{n}", "[1-3]", "[3-1]", "~", "[]", "{}", "- ", ": ", '"', "true", "-1", "0x", "&a", "*a", "é", "\0"]
)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.lists(_JUNK | st.text(max_size=3), min_size=1, max_size=4))
def test_nothing_but_an_input_error_is_raised(seed: int, junk: list[str]) -> None:
    chance = random.Random(seed)
    lines = list(_LINES)
    for piece in junk:
        at = chance.randrange(len(lines))
        line = lines[at]
        cut = chance.randrange(max(len(line), 1))
        end = min(len(line), cut + chance.randrange(6))
        lines[at] = chance.choice((line[:cut] + piece + line[end:], line[: line.find(":") + 1] + f" {piece}\n", ""))
    with contextlib.suppress(InputError):
        loads("".join(lines), "lab.yaml")


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=6,
    ),
    st.sampled_from(
        ["fabrics", "nodes", "externals", "flows", "name", "node", "nics", "pods", "routes", "sysctls", "rules"]
    ),
)
def test_a_field_may_hold_anything(value: object, field: str) -> None:
    import json

    nic = {"fabric": "f0", "addresses": ["10.0.0.1/24"]}
    node: dict[str, object] = {"nics": {"eth0": nic}, "pod_cidrs": "10.244.0.0/24", "pods": ["a"]}
    document: dict[str, object] = {"name": "x", "fabrics": {"f0": {}}, "nodes": {"node1": node}}
    if field in ("nics", "pods", "routes", "sysctls", "rules"):
        node[field] = value
    elif field == "node":
        document["nodes"] = {"node1": value}
    else:
        document[field] = value
    with contextlib.suppress(InputError):
        loads(json.dumps(document), "lab.json")

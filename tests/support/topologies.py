"""Small topologies that tests change: a plain one, and the same with services, egress policies, pools, BGP."""

from __future__ import annotations

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

SERVED = BASE.replace(
    "flows:\n", "services:\n  web: {type: NodePort, port: 80, node_port: 30080, pods: [pod1]}\nflows:\n"
)

GATED = BASE.replace(
    "flows:\n",
    "egress_policies:\n  out: {pods: pod1, destinations: 10.0.1.0/24, gateways: node2, interface: eth1}\nflows:\n",
)

POOLED = BASE.replace(
    "    pods:\n      - pod{n}", "    pools: {disks: '10.245.{n}.0/24'}\n    pods: {'pod{n}': {pool: disks}}"
)

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

_FAR = "  far:\n    nics: {p0: {fabric: f2, addresses: 10.0.2.1/24}}\n"
SPEAKING = (
    BASE.replace("routers:\n", "  f2: {}\nrouters:\n" + _FAR)
    + "bgp:\n  nodes: {asn: 65000}\n  routers:\n    gw: {asn: 65010}\n"
)

"""Kubernetes objects are plain dictionaries that an API server and Cilium's agents understand."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from niclab.agents import kube
from niclab.agents.kube import Deployed
from niclab.check import loads
from niclab.topology.model import Service

V4, V6 = IPv4Address("10.0.0.1"), IPv6Address("fd00::1")


def test_a_node_is_ready_and_has_its_pod_cidrs() -> None:
    found = kube.node(
        "node1",
        addresses=[V4, V6],
        pod_cidrs=[IPv4Network("10.244.1.0/24"), IPv6Network("fd00:1::/64")],
        labels={"rack": "a"},
    )
    assert found == {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": "node1",
            "labels": {"kubernetes.io/hostname": "node1", "kubernetes.io/os": "linux", "rack": "a"},
        },
        "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": "10.0.0.1"},
                {"type": "InternalIP", "address": "fd00::1"},
                {"type": "Hostname", "address": "node1"},
            ],
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "lastTransitionTime": "2000-01-01T00:00:00Z",
                    "reason": "KubeletReady",
                }
            ],
        },
    }
    assert kube.node_ips(found) == [V4, V6]


def test_a_node_without_pods_has_no_pod_cidr() -> None:
    assert kube.node("node1", addresses=[V4])["spec"] == {}
    assert kube.node_ips({"kind": "Node"}) == []


def test_a_pod_is_bound_to_its_node_and_has_no_status() -> None:
    assert kube.pod("pod1", "node1", labels={"app": "web"}) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pod1", "namespace": "default", "labels": {"app": "web"}},
        "spec": {
            "nodeName": "node1",
            "hostNetwork": False,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "pod", "image": "niclab.invalid/none"}],
        },
    }


def test_a_running_pod_has_its_own_and_its_nodes_addresses() -> None:
    found = kube.pod_running("pod1", [IPv4Address("10.244.1.7"), IPv6Address("fd00:1::7")], host_addresses=[V4, V6])
    assert found["metadata"] == {"name": "pod1", "namespace": "default"}
    status = found["status"]
    conditions = {one["type"]: one["status"] for one in status.pop("conditions")}
    assert conditions == dict.fromkeys(("Initialized", "PodScheduled", "ContainersReady", "Ready"), "True")
    assert status == {
        "phase": "Running",
        "startTime": "2000-01-01T00:00:00Z",
        "podIP": "10.244.1.7",
        "podIPs": [{"ip": "10.244.1.7"}, {"ip": "fd00:1::7"}],
        "hostIP": "10.0.0.1",
        "hostIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
    }


def test_cni_arguments_name_the_pod() -> None:
    assert (
        kube.cni_arguments("pod1", "u-1")
        == "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod1;K8S_POD_UID=u-1"
    )


def test_a_cluster_ip_service_without_backends() -> None:
    found, slice_ = Deployed("web", Service(port=80), (IPv4Address("10.96.0.80"),)).objects()
    assert found == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "type": "ClusterIP",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "tcp-80", "port": 80, "protocol": "TCP", "targetPort": 80}],
            "clusterIP": "10.96.0.80",
            "clusterIPs": ["10.96.0.80"],
        },
    }
    # Without backends, but there: an agent is to know that there are none.
    assert slice_["endpoints"] == []


def test_everything_a_service_can_have() -> None:
    spec = Service(
        type="LoadBalancer",
        port=80,
        target_port=8080,
        external_traffic_policy="Local",
        internal_traffic_policy="Cluster",
    )
    service = Deployed(
        "web",
        spec,
        cluster_ips=(IPv4Address("10.96.0.80"), IPv6Address("fd00:10:96::80")),
        ingress=(IPv4Address("192.0.2.10"),),
        external_ips=(IPv4Address("192.0.2.11"),),
        node_port=30080,
        backends=((IPv4Address("10.244.1.7"), "node1", "pod1"), (IPv6Address("fd00:1::7"), "node1", "pod1")),
    )
    found, four, six = service.objects()
    assert found == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "type": "LoadBalancer",
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [{"name": "tcp-80", "port": 80, "protocol": "TCP", "targetPort": 8080, "nodePort": 30080}],
            "clusterIP": "10.96.0.80",
            "clusterIPs": ["10.96.0.80", "fd00:10:96::80"],
            "externalIPs": ["192.0.2.11"],
            "externalTrafficPolicy": "Local",
            "internalTrafficPolicy": "Cluster",
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.10", "ipMode": "VIP"}]}},
    }
    assert four == {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-v4", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "tcp-80", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": ["10.244.1.7"],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": "node1",
                "targetRef": {"kind": "Pod", "name": "pod1", "namespace": "default"},
            }
        ],
    }
    assert (six["addressType"], six["metadata"]["name"]) == ("IPv6", "web-v6")
    assert [endpoint["addresses"] for endpoint in six["endpoints"]] == [["fd00:1::7"]]


def test_an_egress_policy_names_its_gateways() -> None:
    topology = loads(
        """\
name: egress
fabrics: {f0: {}}
nodes:
  node1:
    nics: {eth0: {fabric: f0, addresses: 10.0.0.1/24}}
    pod_cidrs: 10.244.1.0/24
    pods: {pod1: {labels: {app: web}}}
  node2:
    nics: {eth0: {fabric: f0, addresses: 10.0.0.2/24}}
    pod_cidrs: 10.244.2.0/24
egress_policies:
  out: {labels: {app: web}, destinations: 0.0.0.0/0, excluded: 10.0.0.0/8, gateways: node2, egress_ip: 10.0.0.2}
  two: {labels: {app: web}, destinations: 192.0.2.0/24, gateways: [node1, node2]}
""",
        "egress.yaml",
    )
    one, two = kube.policies(topology)
    gateway = {"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "node2"}}, "egressIP": "10.0.0.2"}
    assert (one["apiVersion"], one["kind"], one["metadata"]) == (
        "cilium.io/v2",
        "CiliumEgressGatewayPolicy",
        {"name": "out"},
    )
    assert one["spec"] == {
        "selectors": [{"podSelector": {"matchLabels": {"app": "web"}}}],
        "destinationCIDRs": ["0.0.0.0/0"],
        "excludedCIDRs": ["10.0.0.0/8"],
        "egressGateway": gateway,
    }
    assert [one["nodeSelector"]["matchLabels"]["kubernetes.io/hostname"] for one in two["spec"]["egressGateways"]] == [
        "node1",
        "node2",
    ]

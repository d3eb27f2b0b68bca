"""Kubernetes objects are plain dictionaries that an API server and Cilium's agents understand."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from niclab.agents import ciliumkube, kube

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
    assert kube.pod("pod1", "node1", namespace="shop", labels={"app": "web"}) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pod1", "namespace": "shop", "labels": {"app": "web"}},
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


def test_a_cluster_ip_service_leaves_the_address_to_the_server() -> None:
    found, slice_ = kube.Service("web", (kube.Port(80),)).objects()
    assert found == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "type": "ClusterIP",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "tcp-80", "port": 80, "protocol": "TCP", "targetPort": 80}],
        },
    }
    # Without backends, but there: an agent is to know that there are none.
    assert slice_["endpoints"] == []


def test_everything_a_service_can_have() -> None:
    service = kube.Service(
        "web",
        (kube.Port(80, target=8080, node_port=30080, name="http"), kube.Port(53, "UDP")),
        (
            kube.Backend(IPv4Address("10.244.1.7"), "node1", "pod1"),
            kube.Backend(IPv6Address("fd00:1::7"), "node1", ready=False),
        ),
        type="LoadBalancer",
        namespace="shop",
        families=(4, 6),
        cluster_ips=(IPv4Address("10.96.0.80"), IPv6Address("fd00:10:96::80")),
        ingress=(IPv4Address("192.0.2.10"),),
        external_ips=(IPv4Address("192.0.2.11"),),
        external_traffic_policy="Local",
        internal_traffic_policy="Cluster",
        labels={"a": "b"},
        annotations={"c": "d"},
    )
    found, four, six = service.objects()
    assert found == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop", "labels": {"a": "b"}, "annotations": {"c": "d"}},
        "spec": {
            "type": "LoadBalancer",
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [
                {"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080, "nodePort": 30080},
                {"name": "udp-53", "port": 53, "protocol": "UDP", "targetPort": 53},
            ],
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
        "metadata": {"name": "web-v4", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [
            {"name": "http", "port": 8080, "protocol": "TCP"},
            {"name": "udp-53", "port": 53, "protocol": "UDP"},
        ],
        "endpoints": [
            {
                "addresses": ["10.244.1.7"],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": "node1",
                "targetRef": {"kind": "Pod", "name": "pod1", "namespace": "shop"},
            }
        ],
    }
    assert six["addressType"] == "IPv6"
    assert six["metadata"]["name"] == "web-v6"
    assert six["endpoints"] == [
        {
            "addresses": ["fd00:1::7"],
            "conditions": {"ready": False, "serving": False, "terminating": False},
            "nodeName": "node1",
        }
    ]


def test_an_egress_policy_names_its_gateways() -> None:
    every, some = ip_network("0.0.0.0/0"), ip_network("10.0.0.0/8")
    pods = {"matchLabels": {"app": "web"}}
    one = ciliumkube.egress_policy(
        "out",
        pod_selectors=[pods],
        destinations=[every],
        excluded=[some],
        gateways=["node2"],
        egress_ip=ip_address("10.0.1.2"),
    )
    gateway = {"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "node2"}}, "egressIP": "10.0.1.2"}
    assert (one["apiVersion"], one["kind"], one["metadata"]) == (
        "cilium.io/v2",
        "CiliumEgressGatewayPolicy",
        {"name": "out"},
    )
    assert one["spec"] == {
        "selectors": [{"podSelector": pods}],
        "destinationCIDRs": ["0.0.0.0/0"],
        "excludedCIDRs": ["10.0.0.0/8"],
        "egressGateway": gateway,
    }
    two = ciliumkube.egress_policy("out", pod_selectors=[pods], destinations=[every], gateways=["a", "b"])
    assert [one["nodeSelector"]["matchLabels"]["kubernetes.io/hostname"] for one in two["spec"]["egressGateways"]] == [
        "a",
        "b",
    ]


def test_a_pool_hands_out_cidrs_of_one_length_per_family() -> None:
    cidrs = [ip_network(one) for one in ("10.245.1.0/24", "10.245.2.0/24", "fd00:245:1::/64")]
    assert ciliumkube.pod_ip_pool("disks", cidrs)["spec"] == {
        "ipv4": {"cidrs": ["10.245.1.0/24", "10.245.2.0/24"], "maskSize": 24},
        "ipv6": {"cidrs": ["fd00:245:1::/64"], "maskSize": 64},
    }


def test_a_cilium_node_has_what_an_operator_allocates() -> None:
    address = ip_address("10.0.0.11")
    pooled = ciliumkube.cilium_node("node1", addresses=[address], pools={"default": [ip_network("10.244.1.0/24")]})
    assert pooled["spec"] == {
        "addresses": [{"type": "InternalIP", "ip": "10.0.0.11"}],
        "ipam": {"pools": {"allocated": [{"pool": "default", "cidrs": ["10.244.1.0/24"]}]}},
    }
    eni = ciliumkube.Eni(
        id="eni-1",
        number=1,
        mac="02:00:00:00:00:01",
        address=address,
        subnet=ip_network("10.0.0.0/24"),
        vpc=(ip_network("10.0.0.0/16"), ip_network("10.1.0.0/16")),
        pod_addresses=(ip_address("10.0.0.17"),),
    )
    found = ciliumkube.cilium_node("node1", addresses=[address], router=ip_address("10.0.0.17"), enis=[eni])
    assert found["spec"]["addresses"][1] == {"type": "CiliumInternalIP", "ip": "10.0.0.17"}
    assert found["spec"]["ipam"] == {"pool": {"10.0.0.17": {"resource": "eni-1"}}}
    reported = found["status"]["eni"]["enis"]["eni-1"]
    assert (reported["number"], reported["subnet"]["cidr"], reported["addresses"]) == (1, "10.0.0.0/24", ["10.0.0.17"])
    assert reported["vpc"] == {"id": "vpc-niclab", "primary-cidr": "10.0.0.0/16", "cidrs": ["10.1.0.0/16"]}

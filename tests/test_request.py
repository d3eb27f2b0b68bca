"""What is asked for is resolved once, by one rule, with its reasons; and what cannot be is refused before anything is
made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from niclab import LAB_BASELINE, InputError, LabError, Settings
from niclab.check import load
from niclab.check.amend import with_kind
from niclab.host import ledgers, userns
from niclab.request import Request, choose, decide, default_versions, only_in_kubernetes, resolve
from niclab.settings import NodeSettings
from niclab.topology.model import LocalRedirectPolicy

from tests.support import standin

PLAIN = ("datapath: the built-in model, it is asked for", "version: 1.20, the default")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without bundles, and root on it."""
    for name in ("NICLAB_CILIUM", "NICLAB_KUBERNETES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NICLAB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(userns, "is_able", lambda: True)
    monkeypatch.setattr(userns, "is_inside", lambda: False)
    return tmp_path


@pytest.fixture
def without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userns, "is_able", lambda: False)


def bundles(monkeypatch: pytest.MonkeyPatch, directory: Path, *versions: str) -> None:
    paths = [standin.make(directory / f"cilium-{version}", version) for version in versions]
    monkeypatch.setenv("NICLAB_CILIUM", os.pathsep.join(map(str, paths)))


def test_without_bundles_it_is_the_model_and_nobody_is_warned() -> None:
    request = resolve("two-nic")
    assert (request.datapath, str(request.version), request.choice.control_plane) == ("builtin", "1.20", None)
    assert request.reasons == (
        "datapath: the built-in model, there is no bundle of Cilium on this machine",
        "version: 1.20, the default",
    )
    assert request.warnings == ()
    assert request.choice.description == "built-in model of Cilium 1.20"


def test_root_with_a_bundle_gets_real_agents(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundles(monkeypatch, tmp_path, "1.18.10", "1.19.4")
    request = resolve("two-nic")
    assert (request.datapath, str(request.version), request.choice.control_plane) == ("cilium", "1.19", "kvstore")
    assert request.reasons == (
        "datapath: real agents, a bundle is at hand",
        "control plane: kvstore, there is no bundle of Kubernetes",
        "version: 1.19.4 (bundle cilium-1.19.4), the newest bundle",
    )
    assert request.warnings == ()
    asked = resolve("two-nic", cilium_version="1.18")
    assert asked.choice.description == "Cilium 1.18.10 (kvstore)"
    assert asked.reasons[-1] == "version: 1.18.10 (bundle cilium-1.18.10), it is asked for"


@pytest.mark.usefixtures("without_root")
@pytest.mark.parametrize("version", [None, "1.18", "cilium-1.18.10"])
def test_without_root_the_version_of_the_bundle_is_modelled_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str | None
) -> None:
    bundles(monkeypatch, tmp_path, "1.18.10")
    request = resolve("two-nic", cilium_version=version)
    assert (request.datapath, str(request.version)) == ("builtin", "1.18")
    (line,) = request.warnings
    assert line.startswith(
        "this is the built-in model of Cilium 1.18, not real agents: the bundle cilium-1.18.10 (1.18.10)"
    )
    assert "root" in line
    assert "\n" not in line


@pytest.mark.usefixtures("without_root")
def test_without_root_a_version_that_there_is_no_bundle_of_is_modelled_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundles(monkeypatch, tmp_path, "1.18.10")
    assert str(resolve("two-nic", cilium_version="1.21").version) == "1.21"


@pytest.mark.usefixtures("without_root")
def test_without_root_a_bundle_that_the_model_does_not_know_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundles(monkeypatch, tmp_path, "1.29.0")
    with pytest.raises(InputError, match=r"the model knows Cilium 1\.16 to"):
        resolve("two-nic")


def test_a_version_that_no_bundle_has_is_modelled_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundles(monkeypatch, tmp_path, "1.18.10")
    request = resolve("two-nic", cilium_version="1.20")
    assert (request.datapath, str(request.version)) == ("builtin", "1.20")
    (line,) = request.warnings
    assert "model of Cilium 1.20, not real agents: there is no 1.20 bundle of Cilium" in line


def test_a_bundle_that_cannot_be_used_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NICLAB_CILIUM", str(tmp_path / "nowhere"))
    (line,) = resolve("two-nic").warnings
    assert "not real agents: the Cilium bundle" in line
    assert "neither a directory nor a bundle of the store" in line


@pytest.mark.usefixtures("without_root")
def test_real_agents_without_root_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundles(monkeypatch, tmp_path, "1.18.10")
    labs = ledgers.labs()
    with pytest.raises(LabError) as refused:
        resolve("two-nic", datapath="cilium")
    assert str(refused.value).splitlines() == [
        "real Cilium cannot run here",
        "  why:  agents load eBPF programs, and the kernel lets only the machine's root do that",
        "  fix: run it as root (sudo), or use --datapath builtin",
    ]
    assert ledgers.labs() == labs


def test_what_is_asked_for_is_not_chosen_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundles(monkeypatch, tmp_path, "1.18.10")
    request = resolve("two-nic", datapath="builtin")
    assert (request.reasons, request.warnings) == (PLAIN, ())
    with pytest.raises(LabError, match="there is no datapath 'kind'"):
        resolve("two-nic", datapath="kind")


def test_the_control_plane_goes_by_what_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundles(monkeypatch, tmp_path, "1.18.10")
    agents = decide("cilium")
    assert choose(agents, None, "kvstore").control_plane == choose(agents).control_plane == "kvstore"
    with pytest.raises(LabError, match="there is no bundle of Kubernetes"):
        choose(agents, None, "kubernetes")
    server = tmp_path / "kubernetes" / "bin" / "kube-apiserver"
    server.parent.mkdir(parents=True)
    server.write_text("#!/bin/sh\necho Kubernetes v1.36.2\n")
    server.chmod(0o755)
    monkeypatch.setenv("NICLAB_KUBERNETES", str(tmp_path / "kubernetes"))
    assert choose(agents).control_plane == "kubernetes"
    assert choose(agents).kubernetes is not None
    assert choose(agents, None, "kvstore").control_plane == "kvstore"
    assert choose(decide("builtin"), None, "kubernetes").control_plane is None


def test_the_versions_that_tests_run_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert default_versions(decide(None)) == ("1.18", "1.20")
    bundles(monkeypatch, tmp_path, "1.19.4", "1.18.10", "1.29.0")
    assert default_versions(decide("builtin")) == ("1.18", "1.20")
    assert default_versions(decide(None)) == ("1.18", "1.19", "1.29")
    monkeypatch.setattr(userns, "is_able", lambda: False)
    assert default_versions(decide(None, "1.19")) == ("1.18", "1.19")


@pytest.mark.parametrize(
    ("topology", "settings", "missing"),
    [
        ("two-nic", {}, ""),
        ("two-tors", {}, "BGP"),
        ("multi-pool", {}, "addresses (ipam=multi-pool)"),
        ("eni", {}, "addresses (ipam=eni)"),
        ("egress-gateway", {"enable_egress_gateway": "true"}, "egress policies"),
        ("egress-gateway", {}, ""),
        ("services", {"enable_egress_gateway": "true"}, ""),
    ],
)
def test_what_agents_read_in_kubernetes_alone(
    topology: str, settings: dict[str, str], missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where real agents meet in a kvstore, scenarios that stand on it are skipped and counted, not failed."""
    chosen = LAB_BASELINE.merged(Settings.of(**settings))
    assert only_in_kubernetes(load(topology), chosen) == missing
    assert resolve(topology, chosen, datapath="builtin").lacks_kubernetes == ""
    bundles(monkeypatch, tmp_path, "1.20.7")
    assert resolve(topology, chosen, datapath="cilium", control_plane="kvstore").lacks_kubernetes == missing


def test_settings_are_checked_and_fitted_to_the_topology_once() -> None:
    request = resolve("eni", datapath="builtin")
    assert (request.settings.values["ipam"], request.settings.values["routing-mode"]) == ("eni", "native")
    assert request.reasons[-1].startswith("settings: ")
    assert "ipam=eni" in request.reasons[-1]
    assert request.with_settings(LAB_BASELINE).settings == request.settings
    with pytest.raises(InputError, match="ask for ipam=eni"):
        request.with_settings(LAB_BASELINE.with_values({"ipam": "multi-pool"}))
    with pytest.raises(InputError, match="there is no node 'node9'"):
        resolve("two-nic", Settings(per_node=(NodeSettings.of("node9", {"devices": "eth0"}),)))


def test_warnings_of_keys_and_of_files_and_of_what_has_no_effect() -> None:
    settings = LAB_BASELINE.merged(Settings(warnings=("values.yaml: passed over",)))
    request = resolve("egress-gateway", settings.with_values({"direct-routing-skip-unreachable": "true"}))
    assert "values.yaml: passed over" in request.warnings
    assert any("enable-egress-gateway is off" in line for line in request.warnings)
    old = resolve(
        "two-nic", LAB_BASELINE.with_values({"enable-dynamic-source-lookup-nodeport": "true"}), cilium_version="1.18"
    )
    assert any("1.18 does not read it" in line for line in old.warnings)
    with pytest.raises(InputError, match="did you mean"):
        resolve("two-nic", LAB_BASELINE.with_values({"devises": "eth0"}))


def test_a_kept_request_is_the_same_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundles(monkeypatch, tmp_path, "1.18.10")
    for datapath in ("builtin", "cilium"):
        request = resolve("eni", datapath=datapath, cilium_version="1.18")
        again = Request.from_json(request.to_json())
        assert (again.topology, again.settings) == (request.topology, request.settings)
        assert again.choice.description == request.choice.description
        assert again.choice.bundle == request.choice.bundle


@pytest.mark.parametrize("mode", ["generic-veth", "aws-cni", "flannel", "azure"])
def test_chaining_is_refused_with_the_reason(mode: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve("two-nic", Settings.of(cni_chaining_mode=mode))
    assert f"cni-chaining-mode={mode}: the other plugin plugs the pods and routes them" in str(caught.value)
    assert resolve("two-nic", Settings.of(cni_chaining_mode="portmap")).unmodelled == ()


def test_an_entry_of_devices_that_names_no_nic_is_said() -> None:
    (words,) = resolve("two-nic", Settings.of(devices="eth0 eth*")).warnings
    assert words.startswith("devices: eth* matches no NIC of any of 2 nodes (eth0, eth1): it is neither glob nor")


def test_native_acceleration_is_of_the_askers_nics(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    native = Settings.of(bpf_lb_acceleration="native")
    real = with_kind(load("two-nic"), "physical")
    assert "XDP" not in "".join(resolve(real, native, datapath="builtin").warnings)
    bundles(monkeypatch, tmp_path, "1.18.10")
    assert "take no XDP program" in "".join(resolve(real, native).warnings)
    assert "XDP" not in "".join(resolve(with_kind(real, "veth"), native).warnings)


def test_local_redirect_policies_need_the_option_and_the_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    policy = LocalRedirectPolicy(service="web", pods=("pod1",))
    topology = load("services").model_copy(update={"local_redirect_policies": {"near": policy}})
    (words,) = resolve(topology, datapath="builtin").warnings
    assert words == "local redirect policies (near) are of no effect: enable-local-redirect-policy is off"
    on = Settings.of(enable_local_redirect_policy=True)
    assert resolve(topology, on, datapath="builtin").warnings == ()
    bundles(monkeypatch, tmp_path, "1.18.10")
    with pytest.raises(LabError, match="real agents are not given local redirect policies"):
        resolve(topology, on)

"""`niclab check`: real trials, nothing touched."""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

import pytest
from niclab.cli import check
from niclab.host import features, userns
from niclab.host.features import BUILTIN, Feature, packages, probe, required_missing

from tests.support.busy import processor_time

HERE = Feature("veth", BUILTIN, True, "works", "")
ABSENT = Feature("nft", BUILTIN, False, "not on PATH", "apt-get install nftables")
OPTIONAL = Feature("tcpdump", "looking around by hand", False, "not on PATH", "apt-get install tcpdump")


def host() -> list[str]:
    commands = (["ip", "-d", "-json", "link"], ["ip", "rule"], ["ip", "route", "show", "table", "all"], ["ip", "netns"])
    reported = [subprocess.run(command, capture_output=True, text=True, check=False).stdout for command in commands]
    return [*reported, Path("/proc/self/mounts").read_text()]


def test_probing_is_quick_and_leaves_the_host_alone() -> None:
    before = host()
    assert processor_time(probe) < 2
    features = probe()
    # Other labs may come and go on this machine meanwhile: what matters is that none of the trial's devices is here.
    for state in set(host()) - set(before):
        assert "p0.5" not in state
        assert "vrf0" not in state
        assert '"ifname":"p0"' not in state
    assert len({feature.name for feature in features}) == len(features)


def test_an_option_the_kernel_lacks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = features.Trial("flux capacitor", BUILTIN, "FLUX", ("ip link add fx0 type flux",))
    monkeypatch.setattr(features, "TRIALS", (*features.TRIALS, broken))
    flux = next(feature for feature in features.probe_kernel() if feature.name == "flux capacitor")
    assert not flux.present
    assert "nknown" in flux.detail
    assert flux.install == "a kernel with CONFIG_FLUX"


def test_a_module_whose_loading_shows_on_the_host_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_only_loadable", lambda module: module == "dummy")
    dummy = next(feature for feature in features.probe_kernel() if feature.name == "dummy")
    assert dummy.present
    assert "not tried" in dummy.detail


def test_without_tools_nothing_is_taken_for_present(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (features, userns):
        monkeypatch.setattr(module, "search_path", lambda: str(tmp_path))
    missing = {feature.name for feature in required_missing(probe())}
    assert {"ip", "nft", "unshare", "veth", "AF_PACKET"} <= missing


def test_only_what_the_builtin_datapath_needs_is_required() -> None:
    assert required_missing((HERE, ABSENT, OPTIONAL)) == (ABSENT,)
    assert packages((HERE, ABSENT, OPTIONAL, OPTIONAL)) == ("nftables", "tcpdump")


@pytest.mark.parametrize(("features", "status"), [((HERE, OPTIONAL), 0), ((HERE, ABSENT), 2)])
def test_check_says_able_or_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], features: tuple[Feature, ...], status: int
) -> None:
    monkeypatch.setattr(check, "probe", lambda: features)
    assert check.run(argparse.Namespace(output="json")) == status
    report = json.loads(capsys.readouterr().out)
    assert report["able"] is (status == 0)
    assert report["missing"] == (["nft"] if status else [])
    assert check.run(argparse.Namespace(output="text")) == status
    reported = capsys.readouterr().out
    assert ("not able" in reported) is bool(status)
    assert "apt-get install" in reported

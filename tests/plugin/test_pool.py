"""What marks ask for, resolved as the command line resolves it: files of settings, warnings, and the datapath."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from niclab import InputError, LabError
from niclab.plugin.mutations import fails_without, mutations_of
from niclab.plugin.session import Wanted

VALUES = """\
routingMode: native
ipv4NativeRoutingCIDR: 10.244.0.0/16
devices: eth0
"""


def wanted(pytester: pytest.Pytester, marks: str, place: Path) -> Wanted:
    """What a test with these marks asks for, in a file of this directory."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "test_it.py").write_text(f"import pytest\nfrom niclab import Settings\n\n{marks}\ndef test_it(lab): ...\n")
    # No version's parameter: as of a test that is about one version alone.
    (item, *_) = pytester.inline_genitems(str(place / "test_it.py"))[0]
    return Wanted.by(item, topology=None)


def test_files_of_settings_are_found_beside_the_test_and_above_it(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]")
    place = pytester.path / "deep" / "er"
    place.mkdir(parents=True)
    (pytester.path / "values.yaml").write_text(VALUES)
    whole = wanted(pytester, '@pytest.mark.settings("values.yaml", devices="eth1")', place).settings
    assert (whole.values["routing-mode"], whole.values["devices"]) == ("native", "eth1")
    # Helm values stand for the whole configuration: nothing of the lab's baseline is left.
    assert "enable-policy" not in whole.values
    (place / "values.yaml").write_text("tunnelProtocol: geneve\n")
    nearer = wanted(pytester, '@pytest.mark.settings(Settings.of(devices="eth0"), "values.yaml")', place).settings
    assert "routing-mode" not in nearer.values
    assert (nearer.values["tunnel-protocol"], nearer.values["devices"]) == ("geneve", "eth0")


def test_marks_add_up_and_the_one_nearest_to_the_test_comes_last(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]")
    (pytester.path / "one.flags").write_text("devices=eth0\nnode1:devices=eth1\n")
    marks = '@pytest.mark.settings("one.flags", routing="native")\n@pytest.mark.settings(devices="eth+")'
    settings = wanted(pytester, marks, pytester.path).settings
    assert (settings.values["devices"], settings.values["routing-mode"]) == ("eth+", "native")
    assert settings.values["enable-policy"] == "never"
    assert settings.for_node("node1").devices == ("eth1",)


def test_a_mark_says_the_kind_of_nics_and_a_mutation_takes_it_away(pytester: pytest.Pytester, tmp_path: Path) -> None:
    pytester.makeini("[pytest]")
    asked = wanted(pytester, '@pytest.mark.nics("veth")', pytester.path)
    assert asked.amendments.nics == "veth"
    (mutation,) = mutations_of([fails_without(nics="veth").mark])
    assert mutation.applied(asked, tmp_path).amendments.nics is None
    (other,) = mutations_of([fails_without("machines", instead={"nics": "physical"}).mark])
    assert other.applied(asked, tmp_path).amendments.nics == "physical"
    with pytest.raises(LabError, match="the nics mark takes physical or veth"):
        wanted(pytester, '@pytest.mark.nics("ipvlan")', pytester.path / "other")


@pytest.mark.parametrize(
    ("mark", "error", "words"),
    [
        ('"bad.yaml"', InputError, "bad.yaml:2: "),
        ('"nowhere.yaml"', LabError, "there is no settings file 'nowhere.yaml'"),
        ('"devices=eth0"', LabError, "the settings mark takes files, Settings or flags, not 'devices=eth0'"),
        ("7", LabError, "the settings mark takes files, Settings or flags, not 7"),
        ("devises='eth0'", InputError, "did you mean devices"),
    ],
)
def test_what_is_wrong_with_a_mark_is_said(
    pytester: pytest.Pytester, mark: str, error: type[LabError], words: str
) -> None:
    pytester.makeini("[pytest]")
    (pytester.path / "bad.yaml").write_text("devices: eth0\nMTU: many\n")
    with pytest.raises(error) as refused:
        wanted(pytester, f"@pytest.mark.settings({mark})", pytester.path)
    assert words in str(refused.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: builds network namespaces")
def test_warnings_are_in_the_record_and_once_at_the_end(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a key that this version does not read, and of a bundle that is named and cannot be used."""
    monkeypatch.setenv("NICLAB_CILIUM", str(pytester.path / "nowhere"))
    pytester.makepyfile("""\
import pytest
pytestmark = [pytest.mark.cilium("1.18"), pytest.mark.settings(enable_dynamic_source_lookup_nodeport=True)]
def test_one(lab): lab.send("pod1", "ext0")
def test_two(lab): lab.send("pod1", "ext0")
""")
    done = pytester.runpytest_subprocess()
    done.assert_outcomes(passed=2)
    lines = [line for line in done.outlines if line.startswith("warning: ")]
    model, key = lines
    assert model.startswith("warning: not real agents but the built-in model: the Cilium bundle")
    assert key.startswith("warning: enable-dynamic-source-lookup-nodeport: agents of Cilium")
    assert key.endswith("1.18 does not read it")
    record = json.loads((pytester.path / "artifacts" / "run-1" / "run.json").read_text())
    assert [test["warnings"] for test in record["tests"]] == [[key.removeprefix("warning: ")]] * 2


def test_real_agents_without_a_bundle_are_an_error_and_no_skip(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NICLAB_CILIUM", raising=False)
    monkeypatch.setenv("NICLAB_HOME", str(pytester.path))
    pytester.makepyfile("def test_it(lab): ...")
    done = pytester.runpytest_subprocess("--datapath", "cilium")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert "of Cilium on this machine" in done.stderr.str() or "real Cilium cannot run here" in done.stderr.str()

"""`@pytest.mark.needs(...)`: skipped for what is not there, counted, and never silently run or passed."""

from __future__ import annotations

import os

import pytest
from niclab.host.features import BUILTIN, Feature
from niclab.plugin.marks import lacking, marker_name

FEATURES = (
    Feature("veth", BUILTIN, True, "works", ""),
    Feature("bond", BUILTIN, False, "Unknown device type.", "a kernel with CONFIG_BONDING"),
    Feature("frr", BUILTIN, False, "not on PATH", "apt-get install frr"),
)


def test_what_is_not_there_is_named_with_its_reason() -> None:
    assert lacking((), FEATURES) == {}
    assert lacking(("veth",), FEATURES) == {}
    assert lacking(("veth", "bond"), FEATURES) == {"bond": "Unknown device type. (a kernel with CONFIG_BONDING)"}


def test_a_feature_nobody_knows_is_an_error_not_a_skip() -> None:
    with pytest.raises(ValueError, match="no feature is named 'bonds': did you mean 'bond'"):
        lacking(("bonds",), FEATURES)


def test_names_of_marks() -> None:
    assert marker_name("bond") == "needs_bond"
    assert marker_name("nftables NAT") == "needs_nftables_NAT"


TESTS = """\
import pytest

@pytest.mark.needs("veth")
def test_there(): pass

@pytest.mark.needs("bond", "vlan")
@pytest.mark.parametrize("number", [1, 2])
def test_two_things(number): raise AssertionError("must not run")

@pytest.mark.needs("vlan")
class TestVlan:
    @pytest.mark.needs("veth")
    def test_one(self): raise AssertionError("must not run")

@pytest.mark.needs("flux capacitor")
def test_unknown(): raise AssertionError("must not run")

def test_needs_nothing(): pass
"""

CONFTEST = """\
import niclab.host.features
from niclab.host.features import Feature

def probe():
    print("probed")
    return (
        Feature("veth", "x", True, "works", ""),
        Feature("bond", "x", False, "Unknown device type.", "a kernel with CONFIG_BONDING"),
        Feature("vlan", "x", False, "Unknown device type.", "a kernel with CONFIG_VLAN_8021Q"),
    )

niclab.host.features.probe = probe
"""


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "workers"])
def test_skips_are_counted_by_what_was_missing(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    pytester.makepyfile(TESTS)
    pytester.makeconftest(CONFTEST)
    done = pytester.runpytest_subprocess("--strict-markers", "-rs", *workers)
    done.assert_outcomes(passed=2, skipped=3, errors=1)
    done.stdout.fnmatch_lines(
        [
            "skipped for want of vlan: 3 · bond: 2; niclab check says more",
            "SKIPPED*test_skips*needs bond: Unknown device type. (a kernel with CONFIG_BONDING); vlan: *VLAN_8021Q*",
        ]
    )
    assert "no feature is named 'flux capacitor'" in done.stdout.str()


def test_the_machine_is_asked_once_and_only_when_it_matters(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    pytester.makeconftest(CONFTEST)
    done = pytester.runpytest_subprocess("-s", "--strict-markers", "-m", "needs_bond")
    done.assert_outcomes(skipped=2, deselected=4)
    assert done.stdout.str().count("probed") == 1
    done = pytester.runpytest_subprocess("-s", "-k", "nothing")
    done.assert_outcomes(passed=1, deselected=5)
    assert "probed" not in done.stdout.str()
    assert "skipped for want" not in done.stdout.str()


def test_frr_is_found_where_debian_puts_it() -> None:
    from niclab.host.features import probe_tools

    frr = next(feature for feature in probe_tools() if feature.name == "frr")
    assert frr.present == os.access("/usr/lib/frr/bgpd", os.X_OK)

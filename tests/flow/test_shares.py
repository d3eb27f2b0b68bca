"""Shares over NICs: the statistics, against published values, and the chart."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from niclab.flow.shares import Shares, chi_square_survival


def shares(**counts: int) -> Shares:
    return Shares("pod1→world", "node1", counts)


@pytest.mark.parametrize(
    ("statistic", "degrees", "probability"),
    # Critical values of the chi-square distribution (NIST/SEMATECH e-Handbook, 1.3.6.7.4).
    [(3.841, 1, 0.05), (6.635, 1, 0.01), (5.991, 2, 0.05), (7.815, 3, 0.05), (11.345, 3, 0.01), (18.307, 10, 0.05)],
)
def test_critical_values(statistic: float, degrees: int, probability: float) -> None:
    assert chi_square_survival(statistic, degrees) == pytest.approx(probability, rel=2e-3)


@given(st.floats(0, 200), st.integers(0, 12))
def test_a_probability_is_one(statistic: float, degrees: int) -> None:
    assert 0 <= chi_square_survival(statistic, degrees) <= 1
    assert chi_square_survival(statistic + 1, degrees) <= chi_square_survival(statistic, degrees)


def test_wilson_interval() -> None:
    """Newcombe 1998, table I: 81 of 263, 95 %."""
    low, high = shares(eth0=81, eth1=182).interval("eth0")
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


@given(st.integers(0, 500), st.integers(0, 500))
def test_an_interval_holds_its_share(one: int, other: int) -> None:
    found = shares(eth0=one, eth1=other)
    if one + other:
        low, high = found.interval("eth0")
        assert 0 <= low <= found.share("eth0") <= high <= 1


def test_a_fair_split_fits_and_a_lopsided_one_does_not() -> None:
    assert shares(eth0=1012, eth1=988).fits({"eth0": 1, "eth1": 1})
    assert not shares(eth0=1200, eth1=800).fits({"eth0": 1, "eth1": 1})
    assert shares(eth0=1490, eth1=510).fits({"eth0": 3, "eth1": 1})
    assert not shares(eth0=1012, eth1=988).fits({"eth0": 3, "eth1": 1})


def test_a_nic_without_a_weight_must_carry_nothing() -> None:
    fit = shares(eth0=500, eth1=499, eth2=1).fit({"eth0": 1, "eth1": 1})
    assert fit.p_value == 0
    assert math.isinf(fit.statistic)
    assert shares(eth0=500, eth1=500, eth2=0).fits({"eth0": 1, "eth1": 1})
    assert shares(eth0=500, eth1=0).fits({"eth0": 1})


@pytest.mark.parametrize(
    "weights", [{}, {"eth0": 0.0}, {"eth0": -1.0, "eth1": 2.0}, {"eth9": 1.0}, {"eth0": 1, "eth1": 999}]
)
def test_a_test_that_would_say_nothing_is_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        shares(eth0=100, eth1=100).fit(weights)


def test_nothing_has_no_shares() -> None:
    with pytest.raises(ValueError, match="nothing of pod1→world left node1"):
        shares(eth0=0).share("eth0")
    assert shares(eth0=0).chart().endswith("0")


def test_the_chart() -> None:
    text = shares(eth0=300, eth1=100).chart({"eth0": 3, "eth1": 1})
    assert text.splitlines() == [
        "pod1→world: 400 left node1",
        "  eth0  ██████████████████████████████            300   75.0 % (70.5 to 79.0)",
        "  eth1  ██████████                                100   25.0 % (21.0 to 29.5)",
        "  against 3:1: chi² 0.00, 1 degree of freedom, p = 1",
    ]

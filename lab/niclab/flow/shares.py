"""How flows are shared out over a host's NICs: counts, confidence intervals and a chi-square test. Pure.

What is counted are probes, each of which must be a flow of its own (`vary_ports`, `vary_addresses`), for a hash gives
every packet of a flow the same NIC: packets of one flow are not independent draws, and cannot be tested.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

SIGNIFICANCE = 1e-4
"""A fair hash is called unfair once in ten thousand tests."""
LEAST_EXPECTED = 5.0
"""Counts below which the chi-square distribution is no approximation (Cochran 1954)."""
_BAR = 40
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, slots=True)
class Fit:
    """A chi-square goodness-of-fit test (Pearson 1900) of counts against weights."""

    statistic: float
    degrees: int
    p_value: float

    def __str__(self) -> str:
        degrees = f"{self.degrees} degree{'' if self.degrees == 1 else 's'} of freedom"
        return f"chi² {self.statistic:.2f}, {degrees}, p = {self.p_value:.3g}"


@dataclass(frozen=True)
class Shares:
    """How many probes of a flow left `host` by each NIC; NICs that carried none have 0."""

    flow: str
    host: str
    counts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def share(self, nic: str) -> float:
        """0 to 1. Raises ValueError when nothing left the host, KeyError for an unknown NIC."""
        if self.total == 0:
            raise ValueError(f"nothing of {self.flow} left {self.host}")
        return self.counts[nic] / self.total

    def interval(self, nic: str, confidence: float = 0.95) -> tuple[float, float]:
        """The share's confidence interval (Wilson 1927), within 0 and 1 also for few probes."""
        share, total = self.share(nic), self.total
        z = NormalDist().inv_cdf(0.5 + confidence / 2)
        spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
        scale = 1 + z * z / total
        middle = share + z * z / (2 * total)
        # Rounding must not leave 0 or 1 outside when all or nothing was seen.
        return max(0.0, min(share, (middle - spread) / scale)), min(1.0, max(share, (middle + spread) / scale))

    def fit(self, weights: Mapping[str, float]) -> Fit:
        """Test the counts against these weights; a NIC without one must have carried nothing.

        Raises ValueError where the test would say nothing: no weights, or so few probes that fewer than five are
        expected on a NIC.
        """
        whole = sum(weights.values())
        if not weights or min(weights.values()) < 0 or whole <= 0:
            raise ValueError(f"weights are positive numbers, not {dict(weights)}")
        if strangers := set(weights) - set(self.counts):
            raise ValueError(f"{self.host} has no NIC {', '.join(sorted(strangers))}")
        expected = {nic: self.total * weight / whole for nic, weight in weights.items() if weight}
        if min(expected.values()) < LEAST_EXPECTED:
            raise ValueError(f"{self.total} probes are too few for weights {dict(weights)}")
        degrees = len(expected) - 1
        if any(count for nic, count in self.counts.items() if nic not in expected):
            return Fit(math.inf, degrees, 0.0)
        statistic = sum((self.counts[nic] - many) ** 2 / many for nic, many in expected.items())
        return Fit(statistic, degrees, chi_square_survival(statistic, degrees))

    def fits(self, weights: Mapping[str, float], significance: float = SIGNIFICANCE) -> bool:
        """Could a fair hash with these weights have given these counts?"""
        return self.fit(weights).p_value >= significance

    def chart(self, weights: Mapping[str, float] | None = None) -> str:
        """A bar per NIC with its share and interval in per cent; with weights also the test against them."""
        lines = [f"{self.flow}: {self.total} left {self.host}"]
        names = max(map(len, self.counts), default=0)
        digits = len(str(max(self.counts.values(), default=0)))
        for nic, count in self.counts.items():
            share = self.share(nic) if self.total else 0.0
            words = ""
            if self.total:
                low, high = self.interval(nic)
                words = f"  {100 * share:5.1f} % ({100 * low:.1f} to {100 * high:.1f})"
            lines.append(f"  {nic.ljust(names)}  {_bar(share)}  {str(count).rjust(digits)}{words}")
        if weights and self.total:
            ratio = ":".join(f"{weights.get(nic, 0):g}" for nic in self.counts)
            lines.append(f"  against {ratio}: {self.fit(weights)}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Shares {self.flow} {dict(self.counts)}>"


def _bar(share: float) -> str:
    whole, eighths = divmod(round(share * _BAR * 8), 8)
    return ("█" * whole + (_EIGHTHS[eighths] if eighths else "")).ljust(_BAR)


def chi_square_survival(statistic: float, degrees: int) -> float:
    """P(X ≥ statistic) for a chi-square variable, degrees of freedom ≥ 0 (Abramowitz and Stegun 26.4.4 and 26.4.5)."""
    if degrees == 0:
        return 1.0 if statistic <= 0 else 0.0
    half = statistic / 2
    term = math.exp(-half)
    if degrees % 2 == 0:
        total = 0.0
        for index in range(degrees // 2):
            total += term
            term *= half / (index + 1)
        return min(total, 1.0)
    total = math.erfc(math.sqrt(half))
    term *= math.sqrt(half / math.pi) * 2
    for index in range(1, degrees // 2 + 1):
        total += term
        term *= half / (index + 0.5)
    return min(total, 1.0)

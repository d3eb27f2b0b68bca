"""A neighbour table without room, whose victims are unmeasured and not lost.

Filling the machine's table would disturb whatever else runs on it, so these read what kernels wrote.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from niclab import Lab
from niclab.wire import measure
from niclab.wire.measure import neighbour_overflows

HEAD = (
    "entries  allocs   destroys hash_grows lookups  hits     res_failed rcv_probes_mcast rcv_probes_ucast"
    " periodic_gc_runs forced_gc_runs unresolved_discards table_fulls\n"
)
ROW = (
    "00000004 00021268 00024d2c 00000003   00089f28 0001ccb8 00000071   00000000         00000000        "
    " 00000457         00003129       000006d0            {}\n"
)


def _statistics(place: Path, ipv4: tuple[str, ...], ipv6: tuple[str, ...]) -> Path:
    for name, rows in (("arp_cache", ipv4), ("ndisc_cache", ipv6)):
        (place / name).write_text(HEAD + "".join(ROW.format(row) for row in rows))
    return place


def test_every_cpu_and_both_families_are_counted(tmp_path: Path) -> None:
    assert neighbour_overflows(_statistics(tmp_path, ("00003119", "000037a8"), ("00000000", "00000001"))) == 0x68C2


def test_a_namespace_that_has_no_statistics_is_unknown(tmp_path: Path) -> None:
    assert neighbour_overflows(tmp_path) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: builds network namespaces")
def test_what_was_not_answered_meanwhile_is_unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    with Lab.deploy("two-nic") as lab, lab.link_down("ext1.eth0"):
        assert lab.send("pod1", "ext1").verdict == "lost"
        monkeypatch.setattr(measure, "neighbour_overflows", itertools.count().__next__)
        lost = lab.send("pod1", "ext1")
        assert lost.verdict == "unmeasured"
        assert "gc_thresh3" in str(lost.measurement)
        assert lab.send("pod1", "ext0").verdict == "carried"

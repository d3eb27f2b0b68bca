"""Captures: read back by scapy, and by Wireshark's own tools where they are installed."""

from __future__ import annotations

import shutil
import struct
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from niclab.errors import LabError
from niclab.report.pcapng import write_pcapng
from niclab.wire.tap import Capture

if TYPE_CHECKING:
    from pathlib import Path

Frame = tuple[Capture, str]

TAPS = ("node1.eth0", "node1.eth1", "node2.eth0")
START = 1_700_000_000_123_456_789


def frame(tap: str = TAPS[0], after: int = 0, *, outbound: bool = True, length: int = 60, comment: str = "") -> Frame:
    data = bytes.fromhex("020000000002" + "020000000001" + "88b5").ljust(length, b"\x5a")
    return Capture(tap, START + after, outbound, data), comment


FRAMES = (
    frame(TAPS[0], 0, comment="probe 3 of pod1→ext1, request"),
    frame(TAPS[2], 1_001, outbound=False, length=61),
    frame(TAPS[0], 2_000_000_007, outbound=False, length=1514, comment="probe 3 of pod1→ext1, reply"),
)


def read(path: Path) -> list[tuple[bytes, Any]]:
    from scapy.utils import RawPcapNgReader

    with RawPcapNgReader(str(path)) as reader:
        return list(reader)


def nanoseconds(metadata: Any) -> int:
    return int(metadata.tshigh) << 32 | int(metadata.tslow)


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (apt-get install tshark)")
    return found


def output(*arguments: str) -> str:
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout


def test_scapy_reads_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "run.pcapng"
    assert write_pcapng(path, FRAMES, comment="two-nic", taps=TAPS) == 3
    packets = read(path)
    assert [data for data, _ in packets] == [capture.data for capture, _ in FRAMES]
    assert [nanoseconds(metadata) for _, metadata in packets] == [capture.timestamp_ns for capture, _ in FRAMES]
    assert {metadata.tsresol for _, metadata in packets} == {10**9}
    assert [metadata.ifname.decode() for _, metadata in packets] == [TAPS[0], TAPS[2], TAPS[0]]
    assert [metadata.direction for _, metadata in packets] == [2, 1, 1]
    assert packets[0][1].comments == ["probe 3 of pod1→ext1, request".encode()]
    assert packets[1][1].comments is None


def test_scapys_packet_reader_takes_it_too(tmp_path: Path) -> None:
    from scapy.utils import PcapNgReader

    path = tmp_path / "run.pcapng"
    write_pcapng(path, FRAMES, comment="", taps=TAPS)
    with PcapNgReader(str(path)) as reader:
        assert [bytes(packet) for packet in reader] == [capture.data for capture, _ in FRAMES]


@given(
    st.lists(
        st.tuples(
            st.builds(
                Capture,
                st.sampled_from(TAPS),
                st.integers(0, 2**64 - 1),
                st.booleans(),
                st.binary(min_size=14, max_size=90),
            ),
            st.text(max_size=20).filter(lambda text: text.isprintable()),
        ),
        max_size=8,
    )
)
def test_any_frames_are_read_back_in_the_order_of_their_times(
    tmp_path_factory: pytest.TempPathFactory, frames: list[Frame]
) -> None:
    path = tmp_path_factory.mktemp("capture") / "any.pcapng"
    write_pcapng(path, iter(frames), comment="any", taps=TAPS)
    expected = sorted(frames, key=lambda frame: frame[0].timestamp_ns)
    read_back = [
        (
            Capture(metadata.ifname.decode(), nanoseconds(metadata), metadata.direction == 2, data),
            (metadata.comments or [b""])[0].decode(),
        )
        for data, metadata in read(path)
    ]
    assert read_back == expected


def test_every_block_is_framed_and_every_tap_listed(tmp_path: Path) -> None:
    path = tmp_path / "run.pcapng"
    write_pcapng(path, FRAMES, comment="c", taps=TAPS)
    data, at, kinds = path.read_bytes(), 0, []
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        assert length % 4 == 0
        assert struct.unpack_from("<I", data, at + length - 4) == (length,)
        kinds.append(kind)
        at += length
    assert kinds == [0x0A0D0D0A, 1, 1, 1, 6, 6, 6]
    assert b"niclab" in data


def test_an_overlong_comment_is_cut_inside_no_character(tmp_path: Path) -> None:
    path = tmp_path / "run.pcapng"
    write_pcapng(path, [frame(comment="→" * 30000)], comment="", taps=TAPS)
    ((_, metadata),) = read(path)
    assert metadata.comments[0].decode() == "→" * 21845


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "run.pcapng"
    path.write_bytes(b"mine")
    with pytest.raises(LabError, match="cannot write the capture") as caught:
        write_pcapng(path, FRAMES, comment="", taps=TAPS)
    assert caught.value.why == "it exists"
    assert path.read_bytes() == b"mine"


def test_an_existing_file_is_replaced_on_demand_and_not_written_through(tmp_path: Path) -> None:
    path, target = tmp_path / "run.pcapng", tmp_path / "elsewhere"
    target.write_bytes(b"mine")
    path.symlink_to(target)
    write_pcapng(path, FRAMES, comment="", taps=TAPS, exist_ok=True)
    assert len(read(path)) == 3
    assert target.read_bytes() == b"mine"


def test_a_frame_of_an_unlisted_tap_is_refused_before_a_file_is_made(tmp_path: Path) -> None:
    path = tmp_path / "run.pcapng"
    with pytest.raises(LabError, match=r"node3\.eth0"):
        write_pcapng(path, [frame("node3.eth0")], comment="", taps=TAPS)
    assert not path.exists()


def test_a_missing_directory_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="cannot write the capture"):
        write_pcapng(tmp_path / "no" / "run.pcapng", FRAMES, comment="", taps=TAPS)


def test_no_half_a_file_is_left(tmp_path: Path) -> None:
    path = tmp_path / "run.pcapng"
    with pytest.raises(struct.error):
        write_pcapng(path, [(Capture(TAPS[0], -1, True, b""), "")], comment="", taps=TAPS)
    assert not path.exists()


def test_capinfos_names_every_tap_and_the_application(tmp_path: Path) -> None:
    capinfos, path = tool("capinfos"), tmp_path / "run.pcapng"
    write_pcapng(path, FRAMES, comment="two-nic, tunnel", taps=TAPS)
    text = output(capinfos, str(path))
    assert "nanoseconds (9)" in text
    assert "Number of packets:   3" in text
    assert "Capture application: niclab" in text
    assert "Capture comment:     two-nic, tunnel" in text
    assert all(f"Name = {tap}" in text for tap in TAPS)


def test_tshark_shows_tap_direction_time_and_comment(tmp_path: Path) -> None:
    tshark, path = tool("tshark"), tmp_path / "run.pcapng"
    write_pcapng(path, FRAMES, comment="", taps=TAPS)
    fields = ("frame.interface_name", "frame.packet_flags_direction", "frame.time_epoch", "frame.len", "frame.comment")
    options = [part for field in fields for part in ("-e", field)]
    rows = output(tshark, "-r", str(path), "-T", "fields", "-E", "separator=|", *options).splitlines()
    assert [row.split("|")[0] for row in rows] == [TAPS[0], TAPS[2], TAPS[0]]
    assert [int(row.split("|")[1], 0) for row in rows] == [2, 1, 1]
    assert rows[0].split("|")[2:] == ["1700000000.123456789", "60", "probe 3 of pod1→ext1, request"]
    assert rows[1].split("|")[2:] == ["1700000000.123457790", "61", ""]

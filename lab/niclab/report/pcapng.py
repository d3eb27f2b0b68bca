"""Captures a person opens in Wireshark: pcapng with every tap named in it.

Written here, not by scapy's PcapNgWriter (looked at: 2.8.0), because that one lists only interfaces that carried a
packet (an idle NIC is half of the answer), begins with a nameless one, has no options in the section header, keeps
timestamps as floats of seconds in microseconds, and takes name, direction and comment only from dissected packets.

Blocks and options: draft-ietf-opsawg-pcapng, sections 4.1 (SHB), 4.2 (IDB), 4.3 (EPB).
"""

from __future__ import annotations

import platform
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from niclab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6  # block types
_ETHERNET: Final = 1  # LINKTYPE_ETHERNET
_COMMENT, _HARDWARE, _OS, _APPLICATION = 1, 2, 3, 4  # options of any block, of the section
_IF_NAME, _IF_TSRESOL, _FLAGS = 2, 9, 2  # options of an interface, of a packet
_INBOUND, _OUTBOUND = 1, 2


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame at one tap. `tap` is its name ("node1.eth0"), `timestamp_ns` counts nanoseconds since 1970 (UTC),
    `outbound` says that the frame left the node through this NIC, `data` is Ethernet without FCS."""

    tap: str
    timestamp_ns: int
    outbound: bool
    data: bytes
    comment: str = ""


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _text(code: int, value: str) -> bytes:
    """A UTF-8 option, nothing when empty; cut to the 65535 bytes an option holds, never inside a character."""
    data = value.encode("utf-8", "replace")[:65535].decode("utf-8", "ignore").encode()
    return _option(code, data) if data else b""


def _block(kind: int, body: bytes, options: bytes) -> bytes:
    content = _padded(body) + (options + bytes(4) if options else b"")
    length = struct.pack("<I", len(content) + 12)
    return struct.pack("<I", kind) + length + content + length


def _section(comment: str) -> bytes:
    options = (
        _text(_COMMENT, comment)
        + _text(_HARDWARE, platform.machine())
        + _text(_OS, f"{platform.system()} {platform.release()}")
        + _text(_APPLICATION, "niclab")
    )
    return _block(_SECTION, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1), options)


def _interface(name: str) -> bytes:
    # Snap length 0: no limit. Resolution 9: timestamps count 10**-9 s.
    return _block(
        _INTERFACE, struct.pack("<HHI", _ETHERNET, 0, 0), _text(_IF_NAME, name) + _option(_IF_TSRESOL, b"\x09")
    )


def _packet(number: int, frame: Frame) -> bytes:
    size, time = len(frame.data), frame.timestamp_ns
    head = struct.pack("<IIIII", number, time >> 32, time & 0xFFFFFFFF, size, size)
    flags = struct.pack("<I", _OUTBOUND if frame.outbound else _INBOUND)
    return _block(_PACKET, head + frame.data, _text(_COMMENT, frame.comment) + _option(_FLAGS, flags))


def write_pcapng(
    path: Path, frames: Iterable[Frame], *, comment: str, taps: Sequence[str], exist_ok: bool = False
) -> int:
    """Write `frames`, in the order of their times, to a new file at `path`; return how many there were.

    Every one of `taps` is an interface of the capture, idle or not. Raises LabError when a frame names another tap,
    when `path` exists (unless `exist_ok`: then it is replaced) or cannot be written; then there is no half a file.
    """
    what = f"cannot write the capture {path}"
    numbers = {tap: number for number, tap in enumerate(dict.fromkeys(taps))}
    ordered = sorted(frames, key=lambda frame: frame.timestamp_ns)
    strangers = sorted({frame.tap for frame in ordered} - numbers.keys())
    if strangers:
        why = f"frames were seen at {', '.join(strangers)}, not among the taps {', '.join(numbers) or '(none)'}"
        raise LabError(what, why=why, fix="list every tap of the run in `taps`")
    try:
        if exist_ok:
            path.unlink(missing_ok=True)
        file = path.open("xb")
    except FileExistsError as error:
        raise LabError(what, why="it exists", fix="remove it or name another") from error
    except OSError as error:
        raise LabError(what, why=str(error), fix="name a writable directory") from error
    try:
        with file:
            file.write(_section(comment))
            file.writelines(_interface(tap) for tap in numbers)
            file.writelines(_packet(numbers[frame.tap], frame) for frame in ordered)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise LabError(what, why=str(error), fix="make room on the disk") from error
        raise
    return len(ordered)

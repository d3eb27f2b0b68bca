"""Captures a person opens in Wireshark: pcapng with every tap named in it.

Written here, not by scapy's PcapNgWriter (looked at: 2.8.0), because that one lists only interfaces that carried a
packet (an idle NIC is half of the answer), begins with a nameless one, has no options in the section header, keeps
timestamps as floats of seconds in microseconds, and takes name, direction and comment only from dissected packets.

Blocks and options: draft-ietf-opsawg-pcapng, sections 4.1 (SHB), 4.2 (IDB), 4.3 (EPB).
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from niclab.errors import LabError
from niclab.lab import Lab
from niclab.wire.tap import Capture

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6  # block types
_COMMENT, _HARDWARE, _OS, _APPLICATION = 1, 2, 3, 4  # options of any block, of the section
_IF_NAME, _IF_TSRESOL, _FLAGS = 2, 9, 2  # options of an interface, of a packet


def write(lab: Lab, path: Path, *, exist_ok: bool = False) -> int:
    """Write all that a lab's taps saw, every probe commented; the number of frames. Raises LabError."""
    names = [cable.tap for cable in lab.taps.cables]
    pods = sorted({capture.tap for capture in lab.captures} - set(names))
    frames = ((capture, lab.comment(capture.data)) for capture in lab.captures)
    comment = f"{lab.title}; " + "; ".join(f"{node}: {reported}" for node, reported in lab.reported.items())
    return write_pcapng(path, frames, comment=comment, taps=[*names, *pods], exist_ok=exist_ok)


def write_pcapng(
    path: Path, frames: Iterable[tuple[Capture, str]], *, comment: str, taps: Sequence[str], exist_ok: bool = False
) -> int:
    """Write frames (Ethernet without FCS) with their comments to a new file, in the order of their times; their number.

    Every one of `taps` is an interface of the capture, idle or not. Raises LabError when a frame names another tap,
    when `path` exists (unless `exist_ok`: then it is replaced) or cannot be written; then there is no half a file.
    """
    what = f"cannot write the capture {path}"
    numbers = {tap: number for number, tap in enumerate(dict.fromkeys(taps))}
    ordered = sorted(frames, key=lambda frame: frame[0].timestamp_ns)
    if strangers := sorted({capture.tap for capture, _ in ordered} - numbers.keys()):
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
            file.writelines(map(_interface, numbers))
            file.writelines(_packet(numbers[capture.tap], capture, words) for capture, words in ordered)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise LabError(what, why=str(error), fix="make room on the disk") from error
        raise
    return len(ordered)


def _section(comment: str) -> bytes:
    system = f"{platform.system()} {platform.release()}"
    words = {_COMMENT: comment, _HARDWARE: platform.machine(), _OS: system, _APPLICATION: "niclab"}
    return _block(_SECTION, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1), *(_text(*option) for option in words.items()))


def _interface(name: str) -> bytes:
    # LINKTYPE_ETHERNET. Snap length 0: no limit. Resolution 9: timestamps count 10**-9 s.
    return _block(_INTERFACE, struct.pack("<HHI", 1, 0, 0), _text(_IF_NAME, name), _option(_IF_TSRESOL, b"\x09"))


def _packet(number: int, capture: Capture, comment: str) -> bytes:
    size, time = len(capture.data), capture.timestamp_ns
    head = struct.pack("<IIIII", number, time >> 32, time & 0xFFFFFFFF, size, size)
    flags = struct.pack("<I", 2 if capture.outbound else 1)
    return _block(_PACKET, head + capture.data, _text(_COMMENT, comment), _option(_FLAGS, flags))


def _block(kind: int, body: bytes, *options: bytes) -> bytes:
    content = _padded(body) + b"".join(options) + bytes(4)
    length = struct.pack("<I", len(content) + 12)
    return struct.pack("<I", kind) + length + content + length


def _text(code: int, value: str) -> bytes:
    """A UTF-8 option, nothing when empty; cut to the 65535 bytes an option holds, never inside a character."""
    data = value.encode("utf-8", "replace")[:65535].decode("utf-8", "ignore").encode()
    return _option(code, data) if data else b""


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)

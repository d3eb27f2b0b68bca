"""One pcapng of everything a lab's taps saw, every NIC named, every probe commented."""

from __future__ import annotations

from pathlib import Path

from niclab.lab import Lab
from niclab.report.pcapng import Frame, write_pcapng


def write(lab: Lab, path: Path, *, exist_ok: bool = False) -> int:
    """Write the lab's captured frames; the number of frames. Raises LabError when the file is there or not writable."""
    names = [cable.tap for cable in lab.taps.cables]
    pods = sorted({capture.tap for capture in lab.captures} - set(names))
    frames = (
        Frame(capture.tap, capture.timestamp_ns, capture.outbound, capture.data, lab.comment(capture.data))
        for capture in lab.captures
    )
    comment = f"{lab.title}; " + "; ".join(f"{node}: {reported}" for node, reported in lab.reported.items())
    return write_pcapng(path, frames, comment=comment, taps=[*names, *pods], exist_ok=exist_ok)

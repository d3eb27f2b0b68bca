"""What a tap hands over."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capture:
    """One frame as a tap saw it; `outbound` is seen from the tapped host: it sent the frame."""

    tap: str
    timestamp_ns: int
    outbound: bool
    data: bytes

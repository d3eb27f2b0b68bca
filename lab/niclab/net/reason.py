"""Why something happens to a packet, as data that packet rules and routes carry."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Why:
    """A reason: a stable id, words with `{inputs}` to fill in, and who decides so.

    A packet rule without words is no step of its own: it only stores something for another rule.
    `source` is a file of Cilium with its function, an RFC, or `[kernel]`.
    """

    rule: str
    words: str
    source: str

"""One flow as one cell of the NIC matrix: the same words for what was measured and for what is predicted. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cell:
    """One flow as one cell of the matrix; `loud` cells are those people do not expect."""

    text: str
    loud: bool = False


@dataclass(frozen=True, slots=True)
class Outward:
    """A flow seen from the node that sends it. `source` says how it looked as it left, where that is told."""

    out: frozenset[str]
    back: frozenset[str]
    tunnels: tuple[str, ...] = ()
    source: str = ""
    answered: bool = False

    def words(self) -> list[str]:
        words = [_nics(self.out) or ("on the node" if self.answered else "left no NIC"), *self.tunnels]
        if self.out and not self.tunnels and self.source:
            words.append(self.source)
        if self.back and self.back != self.out:
            words.append(f"back {_nics(self.back)}")
        return words

    @property
    def loud(self) -> bool:
        return bool(self.out and not self.tunnels and self.source.endswith("!"))


@dataclass(frozen=True, slots=True)
class Inward:
    """A flow from outside seen from the node that takes it in."""

    entered: frozenset[str]
    answered: frozenset[str]
    tunnels: tuple[str, ...] = ()

    def words(self) -> list[str]:
        words = [_nics(self.entered) or "never arrived", *self.tunnels]
        if self.answered and self.answered != self.entered:
            words.append(f"reply {_nics(self.answered)}")
        return words

    @property
    def loud(self) -> bool:
        return self.answered != self.entered


def worded(seen: Outward | Inward, *, received: int, sent: int, leaked: bool = False) -> Cell:
    words, loud = seen.words(), seen.loud
    if leaked:
        words.append("leaked")
        loud = True
    if received != sent:
        words.append("no answer" if received == 0 else f"{received}/{sent} answered")
        loud = True
    return Cell(" ".join(words), loud)


def source_words(*, masqueraded: bool, expected: bool, to_pod: bool) -> str:
    """How a pod's source looked as it left: `expected` where pods keep their address by design."""
    if masqueraded:
        return "snat"
    if to_pod:
        return ""
    return "pod address" if expected else "pod address!"


def _nics(names: frozenset[str]) -> str:
    return "+".join(sorted(names))

"""Did a flow do what was predicted? Every probe's trace against every predicted trace. Pure."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from niclab.flow.predict import reasons
from niclab.flow.trace import Trace, host_of
from niclab.flow.verdict import FlowResult

State = Literal["agrees", "differs", "not compared"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`why`: what a probe did that was not predicted, or why there is nothing to compare; empty when it agrees."""

    state: State
    why: str = ""

    @property
    def unpredicted(self) -> str:
        """What the flow did that was not predicted, else empty."""
        return self.why if self.state == "differs" else ""

    def __str__(self) -> str:
        return f"{self.state}: {self.why}" if self.why else self.state


AGREES = Comparison("agrees")


def compare(result: FlowResult) -> Comparison:
    """Each probe of a flow against the predicted traces: each may be hashed to another of them."""
    expected = result.expected
    if why := _not_comparable(result):
        return Comparison("not compared", why)
    if not expected:
        taps = ", ".join(result.transmitted_by)
        return Comparison("differs", f"nothing was predicted, and {taps} sent some") if taps else AGREES
    for number, trace in enumerate(result.traces):
        if not any(_agrees(prediction, trace, result) for prediction in expected):
            return Comparison("differs", f"probe {number}: {trace}; predicted: {' or '.join(map(str, expected))}")
    return AGREES


def count(states: Iterable[State]) -> Mapping[State, int]:
    """How many flows of a run agree with their prediction, differ from it, and were not compared."""
    counted = Counter(states)
    return {state: counted[state] for state in get_args(State)}


def _not_comparable(result: FlowResult) -> str:
    """Why a flow says nothing about its prediction; empty when it does."""
    if result.verdict == "unmeasured":
        return f"unmeasured: {result.why}"
    errors = {seen.note.partition(",")[0] for seen in result.sightings if seen.kind == "error"}
    if errors & {"frag needed", "packet too big"} or result.refusal == os.strerror(errno.EMSGSIZE):
        return "probes were too big for a link, and predictions know no sizes"
    source = host_of(result.flow.source)
    sent = [seen for seen in result.sightings if seen.host == source and seen.outbound and seen.kind == "request"]
    if len({seen.destination for seen in sent}) > 1:
        return "probes went to several addresses, and one of them was predicted"
    return ""


def _agrees(prediction: Trace, trace: Trace, result: FlowResult) -> bool:
    return (
        _sent(prediction, result) == _sent(trace, result)
        and (prediction.carried == trace.carried or _unseen(prediction, result))
        and _source_as_seen(prediction, trace, result)
    )


def _sent(trace: Trace, result: FlowResult) -> frozenset[object]:
    """What NICs of nodes sent, as taps see it."""
    return frozenset(
        (kind, step.tap, step.header.source, step.header.outer)
        for kind, path in trace.paths
        for step in path.left
        if host_of(step.tap) in result.context.nodes
    )


def _unseen(prediction: Trace, result: FlowResult) -> bool:
    """Taps stand outside of nodes. A node's answer from one of its own pods, or from itself, passes no tap; and one
    that the node itself drops for its reverse path has passed the tap before.
    """
    host = host_of(result.flow.source)
    if host in result.context.pod_node or prediction.reply is None:
        return False
    decided = [*prediction.reply.decided]
    where, last = decided[-1]
    return (where == host and last.why == reasons.REVERSE_PATH) or not prediction.reply.left


def _source_as_seen(prediction: Trace, trace: Trace, result: FlowResult) -> bool:
    """Did the packet arrive where it was predicted to, with the predicted source? Where a tap can see it."""
    request = prediction.request
    if request.arrived is None or (request.arrived not in result.context.pod_node and not request.left):
        return True
    return any(
        host_of(step.tap) == request.arrived and step.header.source == request.source for step in trace.request.entered
    )

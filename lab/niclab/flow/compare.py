"""Did a flow do what was predicted? Every probe's sightings against every way the flow may go. Pure."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable, Mapping, Sequence

from niclab.flow.predict import reasons
from niclab.flow.predict.model import Prediction, Transmission
from niclab.flow.verdict import FlowResult
from niclab.wire.path import Sighting


def unpredicted(result: FlowResult, ways: Sequence[Prediction]) -> str:
    """What a flow did that is none of its predicted ways, in words; empty when it did one of them.

    Each probe may take another way, for each may be hashed otherwise. Nothing is said of a flow that was not measured,
    nor of one whose probes went to several addresses: one of them was predicted. Nor of probes that were too big for
    some link, as the sender's kernel or an ICMP message said: predictions know no sizes.
    """
    if result.verdict == "unmeasured" or _too_big(result):
        return ""
    host = result.flow.source.partition(".")[0]
    sent_to = {s.destination for s in result.sightings if s.host == host and s.outbound and s.kind == "request"}
    if len(sent_to) > 1:
        return ""
    if not ways:
        taps = ", ".join(result.transmitted_by)
        return f"nothing was predicted, and {taps} sent some" if taps else ""
    probes: dict[int, list[Sighting]] = {number: [] for number in range(result.sent)}
    for sighting in result.sightings:
        if sighting.kind != "error":
            probes.setdefault(sighting.number, []).append(sighting)
    for number, sightings in probes.items():
        if not any(_agrees(way, sightings, result) for way in ways):
            return f"probe {number}: {_shown(sightings, result)}; predicted: {' or '.join(map(str, ways))}"
    return ""


def _too_big(result: FlowResult) -> bool:
    told = {one.note.partition(",")[0] for one in result.sightings if one.kind == "error"}
    return result.refusal == os.strerror(errno.EMSGSIZE) or bool(told & {"frag needed", "packet too big"})


def _agrees(way: Prediction, sightings: Sequence[Sighting], result: FlowResult) -> bool:
    nodes = result.context.nodes
    return (
        way.transmitted_by(nodes) == transmitted(sightings, nodes)
        and (way.carried == _answered(sightings, result) or _unseen(way, result))
        and _source_as_seen(way, sightings, result)
    )


def transmitted(sightings: Iterable[Sighting], nodes: Collection[str]) -> Mapping[str, Transmission]:
    """Tap → what it sent, of NICs of these nodes; in the shape of what is predicted."""
    found: dict[str, Transmission] = {}
    for one in sightings:
        if not (one.nic and one.outbound and one.host in nodes) or one.kind == "error":
            continue
        so_far = found.get(one.tap, Transmission())
        found[one.tap] = Transmission(
            requests=so_far.requests or one.kind == "request",
            replies=so_far.replies or one.kind == "reply",
            inner_src=so_far.inner_src | {one.source},
            outer=so_far.outer | set(one.outer),
        )
    return found


def _answered(sightings: Iterable[Sighting], result: FlowResult) -> bool:
    host = result.flow.source.partition(".")[0]
    return any(one.kind == "reply" and one.arrives and one.host == host for one in sightings)


def _unseen(way: Prediction, result: FlowResult) -> bool:
    """Taps are outside of hosts. An answer to a node from one of its own pods, or from itself, passes none of the
    node's; and one that the host itself drops for its reverse path has come in.
    """
    host = result.flow.source.partition(".")[0]
    if host in result.context.pod_node or way.reply is None:
        return False
    last = way.reply.steps[-1] if way.reply.steps else None
    dropped = last is not None and last.where == host and last.why == reasons.REVERSE_PATH
    return dropped or not way.reply.sent


def _source_as_seen(way: Prediction, sightings: Iterable[Sighting], result: FlowResult) -> bool:
    host = result.flow.destination.partition(".")[0]
    if way.request.arrived != host or (host not in result.context.pod_node and not way.request.sent):
        return True
    return any(
        one.kind == "request" and one.arrives and one.host == host and one.source == str(way.request.source)
        for one in sightings
    )


def _shown(sightings: Sequence[Sighting], result: FlowResult) -> str:
    """What was seen of a probe, in the words of predictions."""
    host, end = (name.partition(".")[0] for name in (result.flow.source, result.flow.destination))
    requests = [s for s in sightings if s.kind == "request" and s.nic and s.outbound]
    way = " then ".join(s.tap + (" in a tunnel" if s.outer else "") for s in requests) or "no NIC"
    seen = [s.source for s in sightings if s.kind == "request" and s.arrives and s.host == end]
    back = " then ".join(s.tap for s in sightings if s.kind == "reply" and s.nic and s.outbound) or "no NIC"
    answered = any(s.kind == "reply" and s.arrives and s.host == host for s in sightings)
    words = f"{way}, {seen[-1]} seen at {end}" if seen else f"{way}, never seen at {end}"
    return f"{words}; back by {back}" + ("" if answered else ", not answered")

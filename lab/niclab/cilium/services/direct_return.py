"""Direct server return (DSR): the client's address stays, and the backend's node answers with the service's. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from niclab.cilium.services.frontends import Frontend
from niclab.cilium.services.node import KIND_MASK, NUMBER_MASK, QUIET, RETURNED, NodeServices, at
from niclab.net.packetrules import Mark, Match, PacketRule, Rewrite, SetConnectionMark
from niclab.net.reason import Why


def rules(services: NodeServices) -> Iterator[PacketRule]:
    for one in services.frontends:
        if one.outside and services.returns_directly(one):
            yield _request(services, one)
    for one in services.answered_here():
        yield from _answer(services, one)


def _request(services: NodeServices, one: Frontend) -> PacketRule:
    """What is forwarded says which frontend was asked."""
    why = Why(
        "service.dsr",
        f"to a backend of another node with the client's address, and a note that {one} was asked (DSR)",
        "bpf/lib/nodeport.h tail_nodeport_ipv4_dsr",
    )
    match = Match(oif=services.away, connection_mark=services.taken_in(one), direction="original")
    return at("postrouting", match, Rewrite(note=services.number(one)), why, one.family)


def _answer(services: NodeServices, one: Frontend) -> Iterator[PacketRule]:
    """At the backend's node the note is taken on selected NICs, and the answer's source is replaced on them."""
    number = services.number(one)
    connection = Mark(RETURNED | number, KIND_MASK | NUMBER_MASK)
    noted = Match(iif=services.selected, note=number)
    why = Why(
        "service.dsr-note",
        f"{{iif}} is selected: the note says that {one} was asked",
        "bpf/lib/nodeport.h nodeport_extract_dsr_v4",
    )
    yield at("prerouting", noted, SetConnectionMark(connection.value), why, one.family)
    yield at("prerouting", noted, Rewrite(note=0), QUIET, one.family)
    answers = Match(connection_mark=connection, direction="reply", route=services.selected)
    yield from services.as_from(one, one.address, answers)
    why = Why(
        "service.dsr-answer",
        f"{{oif}} is selected: the answer leaves with the address that the client asked, {one}",
        "bpf/lib/nodeport_egress.h nodeport_rev_dnat_fwd_ipv4",
    )
    match = Match(oif=services.selected, protocol=one.protocol, connection_mark=connection, direction="reply")
    yield at("postrouting", match, Rewrite(source=one.address, source_port=one.port), why, one.family)

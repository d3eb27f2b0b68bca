"""The kernel filter of a tap: a classic BPF program, so that a neighbour's chatter never fills the tap's buffer."""

from __future__ import annotations

from typing import Final

# linux/bpf_common.h: loads of a halfword or byte at a fixed offset, a byte relative to X, and so on.
_LDH: Final = 0x28
_LDB: Final = 0x30
_LDB_X: Final = 0x50
_LSH: Final = 0x64
_TAX: Final = 0x07
_JEQ: Final = 0x15
_JGT: Final = 0x25
_JGE: Final = 0x35
_RET: Final = 0x06

_KEEP: Final = 0x40000  # bytes of the frame handed over: more than any frame has
_DROP: Final = 0

Instruction = tuple[int, int, int, int]


def bpf_filter() -> list[Instruction]:
    """(code, jt, jf, k) of each `struct sock_filter`, for SO_ATTACH_FILTER on an AF_PACKET SOCK_RAW socket.

    Keeps canaries, IPv4, IPv6 and frames whose VLAN tag is still in the frame; drops everything else, and of
    IPv6 neighbour discovery and multicast listener reports (ICMPv6 types 130-137 and 143, also behind a hop-by-hop
    header, where RFC 3810 puts the latter). A frame too short for a load is dropped: that is classic BPF's rule.

    A tag the kernel has taken out of the frame (PACKET_AUXDATA has it) is not seen here: such a frame is judged by
    the EtherType behind the tag.
    """
    keep, drop = 20, 21
    program: list[Instruction] = []

    def add(code: int, k: int, yes: int | None = None, no: int | None = None) -> None:
        """Append an instruction; `yes` and `no` are absolute, None is the next instruction."""
        following = len(program) + 1
        program.append((code, 0 if yes is None else yes - following, 0 if no is None else no - following, k))

    add(_LDH, 12)  # 0: EtherType
    add(_JEQ, 0x0800, yes=keep)
    add(_JEQ, 0x88B5, yes=keep)
    add(_JEQ, 0x8100, yes=keep)
    add(_JEQ, 0x88A8, yes=keep)
    add(_JEQ, 0x86DD, no=drop)
    add(_LDB, 20)  # 6: IPv6 next header
    add(_JEQ, 58, yes=16)
    add(_JEQ, 0, no=keep)
    add(_LDB, 54)  # 9: next header of the hop-by-hop header
    add(_JEQ, 58, no=keep)
    add(_LDB, 55)  # 11: its length, in 8 bytes beyond the first 8
    add(_LSH, 3)
    add(_TAX, 0)
    add(_LDB_X, 54 + 8)  # 14: ICMPv6 type behind it
    add(_JEQ, 143, yes=drop, no=18)
    add(_LDB, 54)  # 16: ICMPv6 type
    add(_JEQ, 143, yes=drop)
    add(_JGE, 130, no=keep)  # 18
    add(_JGT, 137, no=drop)
    add(_RET, _KEEP)  # 20
    add(_RET, _DROP)  # 21
    return program

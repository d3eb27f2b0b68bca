"""Netlink messages read back, by pyroute2's own classes."""

from __future__ import annotations

from typing import Any

CREATE = 0x1 | 0x200 | 0x400
MAC = "02:00:00:00:00:01"


def decoded(kind: type[Any], message: bytes) -> dict[str, Any]:
    """Every field of the message, its attributes and the flags of its header; padding and lengths are left out."""
    found = kind(data=message)
    found.decode()
    assert found["header"]["length"] == len(message)
    fields: dict[str, Any] = plain(found)
    return fields | {"type": found["header"]["type"], "request": found["header"]["flags"]}


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        fields = {k: plain(v) for k, v in value.items() if k not in ("attrs", "header") and not k.startswith("_")}
        return fields | {name: plain(one) for name, one in value.get("attrs", ())}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value

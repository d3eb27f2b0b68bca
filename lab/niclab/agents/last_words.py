"""Why an agent exited, from what it logged. Pure."""

from __future__ import annotations

import re

# What wraps the reason in the agent's last line: daemon/cmd/root.go, daemon_main.go and hive's start hooks.
_WRAPPERS = re.compile(
    r"^(unable to run agent|failed to start|invalid daemon configuration|daemon creation failed|"
    r"daemon configuration failed|failed to init and validate daemon config|failed to populate object graph|"
    r"start hook failed): ",
    re.IGNORECASE,
)
_MESSAGE = re.compile(r'(?:^|\s)(msg|error)="((?:[^"\\]|\\.)*)"')


def last_words(log: str) -> str | None:
    """Why an agent exited, from its log: the last fatal line without what wraps the reason; else the last error."""
    for level in ("fatal", "panic", "error"):
        for line in reversed(log.splitlines()):
            if f"level={level}" in line or f'"level":"{level}"' in line:
                return _reason(line)
    panic = next((line for line in log.splitlines() if line.startswith(("panic:", "fatal error:"))), None)
    if panic:
        return panic
    reported = [line for line in log.splitlines() if line.strip()]
    return reported[-1].strip() if reported else None


def _reason(line: str) -> str:
    fields: dict[str, str] = {key: value.replace('\\"', '"') for key, value in _MESSAGE.findall(line)}
    # More lines than one are what went wrong while it ended, after the reason.
    words = fields.get("msg", line).partition("\\n")[0]
    if "error" in fields and fields["error"] not in words:
        words = f"{words}: {fields['error']}"
    while (shorter := _WRAPPERS.sub("", words)) != words:
        words = shorter
    return words

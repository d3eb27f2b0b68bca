"""What a lab has done so far, for whoever wants to know what takes how long: `scripts/bench`, `--log-level=DEBUG`."""

from __future__ import annotations

import logging

LOGGER = "niclab.steps"


def done(step: str) -> None:
    """The lab has just finished a step of its way to traffic."""
    logging.getLogger(LOGGER).debug(step)

"""Every twist."""

from __future__ import annotations

from tests.causes.paths import PATHS
from tests.causes.services import SERVICES
from tests.causes.stories import STORIES
from tests.causes.twist import Table

TWISTS: Table = {**PATHS, **SERVICES, **STORIES}

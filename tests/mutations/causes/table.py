"""Every twist."""

from __future__ import annotations

from tests.mutations.causes.paths import PATHS
from tests.mutations.causes.services import SERVICES
from tests.mutations.causes.stories import STORIES
from tests.mutations.causes.twist import Table

TWISTS: Table = {**PATHS, **SERVICES, **STORIES}

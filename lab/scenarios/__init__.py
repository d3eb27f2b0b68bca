"""How Cilium behaves on nodes with several NICs, as running tests: `pytest lab/`."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.common")

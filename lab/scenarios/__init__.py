"""How Cilium behaves on nodes with several NICs, as running tests: `pytest lab/`."""

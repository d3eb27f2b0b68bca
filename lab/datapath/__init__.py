"""Who forwards pod packets: `builtin` (a model of Cilium made of kernel parts) or real Cilium."""

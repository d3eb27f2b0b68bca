"""Changes to a lab that runs: what they make of its topology, of the kernel and of its agents."""

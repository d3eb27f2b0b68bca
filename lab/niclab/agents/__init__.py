"""Real Cilium on netns nodes: bundles, control planes, one agent per node, pods plugged by its CNI."""

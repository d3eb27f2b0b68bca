"""niclab: which physical NIC carries this pod's traffic, and why."""

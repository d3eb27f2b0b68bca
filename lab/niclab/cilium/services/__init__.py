"""Services with kernel parts: what is served on which NIC (`frontends`), and given to the kernel (`rules`)."""

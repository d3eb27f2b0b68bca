"""This machine: netlink, namespaces, the ledger, processes, user namespaces, feature probes."""

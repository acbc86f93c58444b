"""The door to the kernel: nftables, netlink, namespaces, connection tracking, processes.

Imports what lies below. Never here: a decision about what the kernel should hold.
"""

"""The node agent (kubelet): registers the node, runs pods, probes them.

Imports ``client``, ``kernel`` and what lies below. Never here: another program, the store.
"""

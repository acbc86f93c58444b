"""The masquerade agent (ip-masq-agent): which traffic leaves a node under the node's own address.

Imports ``client``, ``kernel`` and what lies below. Never here: another program, the store.
"""

"""The load balancer: addresses from pools of both families, announced on the node network. Empty until its issue is taken up.

Imports ``client``, ``kernel`` and what lies below. Never here: another program, the store.
"""

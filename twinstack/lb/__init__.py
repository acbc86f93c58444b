"""The load balancer: addresses from pools of both families, announced on the node network or to routers.

Imports ``client``, ``kernel`` and what lies below. Never here: another program, the store.
"""

"""The Service proxy (kube-proxy): Services and EndpointSlices in, one nftables table out.

Imports ``client``, ``kernel`` and what lies below. Never here: another program, the store.
"""

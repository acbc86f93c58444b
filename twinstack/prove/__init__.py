"""Proof: what answers, over which family, and why not.

Imports everything below. Never here: building or changing a cluster.
"""

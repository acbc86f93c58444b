"""A picture of the cluster for a browser. Empty until its issue is taken up.

Imports everything below. Never here: a change to the cluster.
"""

"""Cluster DNS: address, service and pointer records of both families. Empty until its issue is taken up.

Imports ``client`` and what lies below. Never here: another program, the kernel.
"""

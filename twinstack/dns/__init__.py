"""Cluster DNS: address, service and pointer records of both families, and the server that answers with them.

Imports ``client`` and what lies below. Never here: another program, the kernel.
"""

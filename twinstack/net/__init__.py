"""Arithmetic: address families, CIDRs and pools. Imports nothing of twinstack, and knows no Kubernetes.

Never here: a clock, a log, a file, a socket.
"""

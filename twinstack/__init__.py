"""Kubernetes' IPv4/IPv6 dual-stack networking: run it, rehearse it, prove it."""

__version__ = "0.1.0"

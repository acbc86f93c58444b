"""Loops and clocks: queues, reconcilers, supervision, settings, logs and metrics, written once for every program.

Imports ``api``, ``net``, ``rules``, ``dataplane``. Never here: what a loop decides, or the door it acts through.
"""

"""Decisions: the dual-stack law as pure functions, facts in, decision or problems out.

Imports ``api`` and ``net``. Never here: an allocator's state, a store, a clock, a log, I/O.
"""

"""What the control loops decide: one invariant, one file, each a pure ``decide(key, world) -> list[Action]``.

Imports ``rules``, ``dataplane``, ``api``, ``net``. Never here: a queue, a client, a clock, another controller.
"""

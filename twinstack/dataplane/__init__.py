"""What a kernel ought to hold, as values: rulesets, links, routes, and the difference of two of them.

Imports ``api`` and ``net``. Never here: a kernel, a clock, a log, I/O.
"""

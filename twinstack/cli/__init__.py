"""The command line and composition root: one function per command; wires the rooms together.

Imports anything. Never here: a decision.
"""

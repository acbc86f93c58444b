"""A live cluster on its way to dual-stack. Empty until its issue is taken up.

Imports everything below. Never here: a change that was not first planned.
"""

"""What is particular to a kind on the way into the store: defaults, allocation, validation.

Never here: HTTP, the store.
"""

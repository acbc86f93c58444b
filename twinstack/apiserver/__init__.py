"""The API server: HTTP in, documents out, every write one transaction.

Imports ``store`` and what lies below. Never here: another program, the kernel.
"""

"""The network plugin: one interface and one address of each family for a pod, over the CNI protocol.

Imports ``kernel`` and what lies below. Never here: asyncio, the API client: a plugin must start fast.
"""

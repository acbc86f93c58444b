"""A cluster to try: many nodes on one machine, in network namespaces.

Imports everything below. Never here: what a program does once it runs.
"""

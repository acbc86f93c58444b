"""Words that others defined: Kubernetes' kinds, errors, selectors and patches, the CNI protocol's documents.

Imports ``net``. Never here: a decision, a clock, a log, I/O.
"""

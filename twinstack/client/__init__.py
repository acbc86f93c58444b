"""The door to the network: a Kubernetes client, kubeconfig files and informers.

Imports what lies below. Never here: a decision about what to write.
"""

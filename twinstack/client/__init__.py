"""The door to the network: a Kubernetes client, kubeconfig files and informers; and the controllers run through it.

Imports what lies below. Never here: a decision about what to write.
"""

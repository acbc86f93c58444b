"""The door to the disk: a versioned log of documents with watch. Opened by ``apiserver`` alone.

Imports what lies below. Never here: what a document means.
"""

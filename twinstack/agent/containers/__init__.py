"""Container runtimes behind one protocol: host processes now, images later.

Never here: pods, the API.
"""

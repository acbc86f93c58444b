"""Benchmarks: each module has ``run(scale) -> list[Result]``; ``make bench`` runs them all.

A figure stands beside a baseline measured in the same run, so that the ratio means something on any machine.
"""

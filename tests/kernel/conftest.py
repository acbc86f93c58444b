"""Namespaces of a test's own, removed when it ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from twinstack.kernel import namespaces


@pytest.fixture
def netns() -> Iterator[Callable[[str], str]]:
    """A maker of network namespaces: ``netns("a")`` gives the path of a new one."""
    made: list[str] = []

    def make(name: str) -> str:
        path = f"/run/netns/tst-{os.getpid()}-{name}"
        namespaces.create(path)
        made.append(path)
        return path

    yield make
    for path in made:
        namespaces.remove(path)

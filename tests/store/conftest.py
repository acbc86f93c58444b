"""Stores to test: the same suite is run by each."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from twinstack.store.base import Store
from twinstack.store.memory import MemoryStore
from twinstack.store.sqlite import SQLiteStore


@pytest.fixture(params=["sqlite", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    one: Store = SQLiteStore(tmp_path) if request.param == "sqlite" else MemoryStore()
    list(one.load())
    yield one
    await one.close()


@pytest.fixture
async def reopen() -> AsyncIterator[Callable[[Path], Awaitable[SQLiteStore]]]:
    """Open a directory anew, whatever had it open here before being closed first."""
    opened: list[SQLiteStore] = []

    async def open_(directory: Path) -> SQLiteStore:
        while opened:
            await opened.pop().close()
        opened.append(SQLiteStore(directory))
        return opened[-1]

    yield open_
    while opened:
        await opened.pop().close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A disk of so many bytes; called again, it gets that size."""
    place = tmp_path / "disk"

    def mount(size: int) -> Path:
        options = f"size={size}"
        if place.exists():
            options += ",remount"
        place.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tst-store", str(place)], check=True)
        return place

    yield mount
    if place.exists():
        subprocess.run(["umount", "--lazy", str(place)], check=True)

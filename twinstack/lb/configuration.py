"""Which pools and peers are in force: those of the ConfigMap where there is one, else those of the file.

Rule of this file: what cannot be read changes nothing; it is told, and what was in force stays.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from twinstack.api.kinds import ConfigMap
from twinstack.api.world import World
from twinstack.controllers.loadbalancers import CONFIG, ENTRY
from twinstack.lb.settings import Settings, SettingsError, configuration_of_file
from twinstack.rules.balancer_pools import Configuration, PoolsError, parse_configuration

LOOK_SECONDS = 1.0

log = logging.getLogger(__name__)


class InForce:
    """The configuration of a node, followed as it changes. ``wrong`` is why the newest is not in force; empty when it is."""

    def __init__(self, settings: Settings, world: World) -> None:
        self._settings, self._world = settings, world
        self.of_file = configuration_of_file(settings)
        self._stamp = self._looked()
        self._current = self.of_file
        self._read: ConfigMap | None = None
        self._callbacks: list[Callable[[], None]] = []
        self.wrong = self._wrong_file = ""

    @property
    def current(self) -> Configuration:
        """What holds now."""
        config = self._world.get(ConfigMap, CONFIG)
        if config is None:
            self._current, self.wrong = self.of_file, self._wrong_file
        elif config is not self._read:
            try:
                text = (config.data or {}).get(ENTRY)
                if text is None:
                    raise PoolsError(f"it has no entry {ENTRY}")
                self._current, self.wrong = parse_configuration(text), ""
            except PoolsError as error:
                self.wrong = f"ConfigMap {CONFIG} is refused: {error}"
                log.error("The ConfigMap of pools is refused, and what was in force before holds", extra={"error": str(error)})
        self._read = config
        return self._current

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Be called when the file says something else."""
        self._callbacks.append(callback)

    async def follow_file(self) -> None:
        """Read the file again whenever it changes, until cancelled."""
        while self._settings.config:
            await asyncio.sleep(LOOK_SECONDS)
            stamp = self._looked()
            if stamp == self._stamp:
                continue
            self._stamp = stamp
            try:
                found = configuration_of_file(self._settings)
            except SettingsError as error:
                self._wrong_file = str(error)
                log.error("The file of pools is refused, and what it said before holds", extra={"error": str(error)})
            else:
                self._wrong_file = ""
                if found == self.of_file:
                    continue
                self.of_file = found
                log.info("The file of pools says something else", extra={"pools": ", ".join(pool.name for pool in found.pools)})
            for callback in self._callbacks:
                callback()

    def _looked(self) -> tuple[int, ...]:
        """What tells one state of the file from another; nothing while there is none."""
        try:
            status = os.stat(self._settings.config) if self._settings.config else None
        except OSError:
            status = None
        return () if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)

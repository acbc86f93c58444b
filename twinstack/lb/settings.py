"""What ``twinstack load-balancer`` is told: one field per flag."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from twinstack.net.errors import Error
from twinstack.rules.balancer_pools import AddressPool, PoolsError, parse_pools


class SettingsError(Error, ValueError):
    """A flag has a value that cannot be."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One field per flag."""

    kubeconfig: str = ""
    config: str = ""  # a file of pools; the ConfigMap goes before it
    hostname_override: str = ""
    interface: str = ""  # empty: the one with an address of the node
    lease_seconds: float = 2.0
    renew_seconds: float = 0.6
    dry_run: bool = False

    @property
    def node_name(self) -> str:
        return self.hostname_override or os.uname().nodename.lower()


def checked(settings: Settings) -> Settings:
    """The settings; SettingsError when a flag cannot be."""
    if settings.renew_seconds < 0.1:
        raise SettingsError(f"--renew-interval={settings.renew_seconds:g}s is less than 0.1s; 0.6s would do")
    if settings.lease_seconds < 2.5 * settings.renew_seconds:
        wanted = 2.5 * settings.renew_seconds
        raise SettingsError(f"--lease-duration={settings.lease_seconds:g}s is less than 2.5 times --renew-interval; {wanted:g}s would do")
    pools_of_file(settings)
    return settings


def pools_of_file(settings: Settings) -> tuple[AddressPool, ...]:
    """The pools of ``--config``; SettingsError when there are none to be read. None without the flag."""
    if not settings.config:
        return ()
    try:
        return parse_pools(Path(settings.config).read_bytes())
    except OSError as error:
        raise SettingsError(f"--config={settings.config} cannot be read: {error.strerror}") from error
    except PoolsError as error:
        raise SettingsError(f"--config={settings.config}: {error}") from error

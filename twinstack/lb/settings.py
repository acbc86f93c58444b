"""What ``twinstack load-balancer`` is told: one field per flag."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from twinstack.dataplane.bird import plain_password
from twinstack.kernel import bird
from twinstack.net.cidr import parse_address
from twinstack.net.errors import AddressError, Error
from twinstack.net.family import FAMILIES
from twinstack.rules.balancer_pools import BGP, Configuration, PoolsError, parse_configuration

HEALTH_PORT = 10261
_NO_SOCKET_PATH = 90  # bytes: a socket's path ends at 107


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
    run_dir: str = "/run/twinstack-load-balancer"  # of our own BIRD: its configuration and control socket
    bgp_password_file: str = ""  # of the sessions with all peers
    health_address: str = FAMILIES[0].facts.loopback
    health_port: int | None = HEALTH_PORT  # None: none
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
    if not os.path.isabs(settings.run_dir) or len(os.fsencode(settings.run_dir)) > _NO_SOCKET_PATH:
        raise SettingsError(f"--run-dir={settings.run_dir} is not an absolute path of at most {_NO_SOCKET_PATH} bytes")
    try:
        parse_address(settings.health_address)
    except AddressError as error:
        raise SettingsError(f"--bind-address: {error}") from error
    if settings.health_port is not None and not 0 <= settings.health_port <= 65535:
        raise SettingsError(f"--health-port={settings.health_port} is not a port; -1 serves nowhere")
    bgp_password(settings)
    configuration = configuration_of_file(settings)
    if not settings.dry_run and configuration.speaks_bgp and bird.find() is None:
        name = next(pool.name for pool in configuration.pools if pool.way == BGP)
        raise SettingsError(f"--config={settings.config}: pool {name} is announced by BGP, but bird is not installed here; the package {bird.PACKAGE} has it")
    return settings


def bgp_password(settings: Settings) -> str:
    """The password of ``--bgp-password-file``, without the end of its line; SettingsError when there is none. Empty without the flag."""
    path = settings.bgp_password_file
    if not path:
        return ""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace").removesuffix("\n")
    except OSError as error:
        raise SettingsError(f"--bgp-password-file={path} cannot be read: {error.strerror}") from error
    if not plain_password(text):
        raise SettingsError(f"--bgp-password-file={path}: a password is 1 to 80 printable ASCII characters, without quotation marks and backslashes")
    return text


def configuration_of_file(settings: Settings) -> Configuration:
    """What ``--config`` says; SettingsError when it cannot be read. Nothing without the flag."""
    if not settings.config:
        return Configuration()
    try:
        return parse_configuration(Path(settings.config).read_bytes())
    except OSError as error:
        raise SettingsError(f"--config={settings.config} cannot be read: {error.strerror}") from error
    except PoolsError as error:
        raise SettingsError(f"--config={settings.config}: {error}") from error

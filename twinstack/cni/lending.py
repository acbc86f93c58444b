"""Our addresses for another plugin's link: the IPAM commands, as ``ipam.type: twinstack-ipam`` under ``bridge`` asks for them.

Rule of this file: the store of ``cni.ipam`` behind the same commands; no link is touched.
"""

from __future__ import annotations

from collections.abc import Callable

from twinstack.api import cni
from twinstack.api.cni import CNIError, Config, Document
from twinstack.cni.ipam import Store
from twinstack.cni.plugin import Request, needs, version


def _config(request: Request) -> Config:
    config = cni.parse_config(request.data, request.arguments, for_others=True)
    if not config.range_sets:
        raise CNIError(cni.BAD_CONFIG, "ipam.ranges is empty", "one list for each family: [[{subnet: 10.244.1.0/24}], [{subnet: fd00:10:244:1::/64}]]")
    return config


def add(request: Request, netns: int | None) -> Document:
    """Give an address of each range set."""
    config = _config(request)
    return cni.ipam_result(config, Store(config).take(request.who))


def delete(request: Request, netns: int | None) -> None:
    """Give the addresses back; a configuration that has lost its ranges is no obstacle."""
    Store(cni.parse_config(request.data, request.arguments, for_others=True)).give(request.who)


def check(request: Request, netns: int | None) -> None:
    """CNIError 101 when the container has no address, or another one than its result tells."""
    config = _config(request)
    kept = Store(config).has(request.who)
    told = set(cni.addresses_of(config.previous)) if config.previous is not None else kept
    if not kept or not kept <= told:
        raise CNIError(cni.NOT_AS_TOLD, "addresses are not kept for the container", ", ".join(map(str, told - kept)))


def collect(request: Request, netns: int | None) -> None:
    """Give back what belongs to attachments that the runtime does not list."""
    config = _config(request)
    needs(config, "GC")
    if config.valid is None:
        raise CNIError(cni.BAD_CONFIG, "GC needs cni.dev/valid-attachments")
    valid = set(config.valid)
    Store(config).keep_only(lambda who: who in valid)


def status(request: Request, netns: int | None) -> None:
    """CNIError 50 when an address could not be given."""
    config = _config(request)
    needs(config, "STATUS")
    try:
        Store(config).check_usable()
    except CNIError as error:
        raise CNIError(cni.NOT_AVAILABLE, "an address cannot be given now", str(error)) from error


COMMANDS: dict[str, Callable[[Request, int | None], Document | None]] = {
    "ADD": add,
    "DEL": delete,
    "CHECK": check,
    "GC": collect,
    "STATUS": status,
    "VERSION": version,
}

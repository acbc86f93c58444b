"""Windows' Host Networking Service (computenetwork.dll): documents in, policies made. No machine of this project can run it.

Rule of this file: it hands over JSON and tells what HNS answers. On any other system it refuses at once, clearly.
The calls are those of HCN's C interface (computenetwork.h); nothing here was ever tried against a Windows.
"""

from __future__ import annotations

import ctypes
import errno
import json
import sys
import uuid
from typing import Any

from twinstack.kernel.errors import KernelError

WHY_NOT = "the Host Networking Service is Windows', and this is not Windows; --dry-run prints what it would be given"


class Hns:
    """One HNS network, found by name; KernelError where there is no HNS, or no such network."""

    def __init__(self, network: str, *, platform: str = sys.platform) -> None:
        if platform != "win32":
            raise KernelError(errno.ENOSYS, "use HNS", WHY_NOT)
        self._library: Any = vars(ctypes)["WinDLL"]("computenetwork.dll")
        self.id, self.type = self._found(network)
        self._network = ctypes.c_void_p()
        self._call("HcnOpenNetwork", _guid(self.id), ctypes.byref(self._network))

    def make_endpoint(self, document: dict[str, Any]) -> None:
        """Make an endpoint under its own id."""
        handle = ctypes.c_void_p()
        self._call("HcnCreateEndpoint", self._network, _guid(document["ID"]), json.dumps(document), ctypes.byref(handle))
        self._library.HcnCloseEndpoint(handle)

    def make_balancer(self, document: dict[str, Any]) -> None:
        """Make a load balancer under its own id."""
        handle = ctypes.c_void_p()
        self._call("HcnCreateLoadBalancer", _guid(document["ID"]), json.dumps(document), ctypes.byref(handle))
        self._library.HcnCloseLoadBalancer(handle)

    def delete_endpoint(self, id_: str) -> None:
        """Delete an endpoint of ours."""
        self._call("HcnDeleteEndpoint", _guid(id_))

    def delete_balancer(self, id_: str) -> None:
        """Delete a load balancer of ours."""
        self._call("HcnDeleteLoadBalancer", _guid(id_))

    def balancers(self) -> list[str]:
        """The ids of all load balancers."""
        found = ctypes.c_wchar_p()
        self._call("HcnEnumerateLoadBalancers", "", ctypes.byref(found))
        return list(json.loads(found.value or "[]"))

    def _found(self, name: str) -> tuple[str, str]:
        found = ctypes.c_wchar_p()
        self._call("HcnEnumerateNetworks", json.dumps({"Filter": json.dumps({"Name": name})}), ctypes.byref(found))
        for id_ in json.loads(found.value or "[]"):
            handle, text = ctypes.c_void_p(), ctypes.c_wchar_p()
            self._call("HcnOpenNetwork", _guid(id_), ctypes.byref(handle))
            self._call("HcnQueryNetworkProperties", handle, "", ctypes.byref(text))
            self._library.HcnCloseNetwork(handle)
            properties = json.loads(text.value or "{}")
            if properties.get("Name") == name:
                return str(id_), str(properties.get("Type", ""))
        raise KernelError(errno.ENOENT, "find the HNS network", f"there is no HNS network {name!r}")

    def _call(self, name: str, *arguments: Any) -> None:
        record = ctypes.c_wchar_p()
        result = getattr(self._library, name)(*arguments, ctypes.byref(record))
        if result & 0x80000000:
            raise KernelError(errno.EIO, name, record.value or f"HRESULT {result & 0xFFFFFFFF:#010x}")


def _guid(text: str) -> Any:
    return ctypes.create_string_buffer(uuid.UUID(text).bytes_le, 16)

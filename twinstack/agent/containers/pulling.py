"""Images from registries, fetched by skopeo into a layout that is then loaded like any other.

Rule of this file: skopeo speaks to the registry (names, tokens, certificates, mirrors of ``/etc/containers/registries.conf``), and what it has
brought is checked again as it is unpacked. Nothing of a refusal is kept.

Theory. A registry is asked first which configuration the name means now: an image that is kept already, under whatever name, is not
brought again. Registries on loopback addresses are spoken to without TLS where they have none, as other runtimes do.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec

from twinstack.agent.containers.archives import ImageError
from twinstack.agent.containers.images import Image, Images, normalized
from twinstack.api.kinds import Secret
from twinstack.kernel import processes
from twinstack.kernel.errors import KernelError

SKOPEO = "skopeo"
TIMEOUT_SECONDS = 600.0
_POLICIES = ("/etc/containers/policy.json", "~/.config/containers/policy.json")
_SAID = re.compile(r'msg=("(?:[^"\\]|\\.)*")')


def puller_problem() -> str | None:
    """Why no registry can be asked from this machine."""
    return None if shutil.which(SKOPEO) else f"{SKOPEO} is not installed (apt-get install {SKOPEO})"


def is_local(reference: str) -> bool:
    """Whether an image's registry is on a loopback address of this machine."""
    host = normalized(reference).partition("/")[0]
    host = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def credentials_of(secrets: Iterable[Secret]) -> dict[str, Any]:
    """What Secrets say of registries, as ``auths`` of a Docker configuration; of two words about one registry the first counts."""
    found: dict[str, Any] = {}
    for secret in secrets:
        for key, inner in ((".dockerconfigjson", "auths"), (".dockercfg", "")):
            if text := (secret.data or {}).get(key):
                try:
                    document = msgspec.json.decode(base64.b64decode(text))
                    entries = document.get(inner, {}) if inner else document
                    found = {**entries, **found}
                except (binascii.Error, msgspec.DecodeError, AttributeError, TypeError) as error:
                    raise ImageError(f'secret "{secret.metadata.name}": {key} is no configuration of registries: {error}') from None
    return found


async def pull(
    images: Images, reference: str, *, tls_verify: bool | None = None, auth_file: Path | None = None, auths: Mapping[str, Any] | None = None
) -> Image:
    """Bring what a name means now, and keep it under that name; ImageError when the registry does not give it.

    *tls_verify* None: everywhere but on loopback addresses. *auths* are credentials by registry, *auth_file* a file of them; without
    either, skopeo's own places count.
    """
    full = normalized(reference)
    if problem := puller_problem():
        raise ImageError(f"{reference} cannot be pulled: {problem}; or load an archive (twinstack image load)")
    with tempfile.TemporaryDirectory(prefix="twinstack-pull-") as place:
        if auths:
            auth_file = Path(place) / "auth.json"
            auth_file.write_bytes(msgspec.json.encode({"auths": auths}))
        common = ["--authfile", str(auth_file)] if auth_file is not None else []
        verify = "true" if tls_verify or (tls_verify is None and not is_local(full)) else "false"
        told = await _skopeo(reference, ["inspect", *common, f"--tls-verify={verify}", "--config", "--raw", f"docker://{full}"])
        known = images.find(f"sha256:{hashlib.sha256(told).hexdigest()}")
        if known is not None:
            return await asyncio.to_thread(images.name, known, full)
        layout = Path(place) / "layout"
        await _skopeo(reference, ["copy", "--quiet", *common, f"--src-tls-verify={verify}", f"docker://{full}", f"oci:{layout}"])
        (image,) = await asyncio.to_thread(images.load, layout, name=full)
        return image


async def _skopeo(reference: str, words: Sequence[str]) -> bytes:
    # without a policy on signatures, which its package may leave to another one, skopeo refuses everything
    policy = [] if any(os.path.exists(os.path.expanduser(path)) for path in _POLICIES) else ["--insecure-policy"]
    try:
        done = await processes.run([SKOPEO, *policy, *words], timeout=TIMEOUT_SECONDS)
    except TimeoutError:
        raise ImageError(f"{reference} cannot be pulled: {SKOPEO} did not end within {TIMEOUT_SECONDS:.0f} s") from None
    except KernelError as error:
        raise ImageError(f"{reference} cannot be pulled: {error}") from error
    if done.returncode != 0:
        raise ImageError(f"{reference} cannot be pulled: {_reason(done.stderr)}")
    return done.stdout


def _reason(said: bytes) -> str:
    """The last thing that skopeo has said, without its time and level."""
    lines = said.decode(errors="replace").strip().splitlines() or [f"{SKOPEO} said nothing"]
    found = _SAID.search(lines[-1])
    try:
        return str(json.loads(found[1])) if found else lines[-1]
    except ValueError:  # Go quotes some letters in its own way
        return lines[-1]

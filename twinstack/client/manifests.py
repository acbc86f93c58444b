"""Manifest files: the documents in a folder of YAML, in the order of their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from twinstack.api.objects import Document
from twinstack.net.errors import Error

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ManifestError(Error):
    """A manifest cannot be read, or holds something that is no object."""


def read_folder(folder: Path) -> list[Document]:
    """The documents of all ``*.yaml`` files of a folder; empty ones are left out."""
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise ManifestError(f"{folder} has no manifests (*.yaml)")
    return [document for file in files for document in read_file(file)]


def read_file(file: Path) -> list[Document]:
    """The documents of one file."""
    try:
        documents = list(yaml.load_all(file.read_text(encoding="utf-8"), Loader=_LOADER))
    except OSError as error:
        raise ManifestError(f"{file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    for document in documents:
        named = isinstance(document, dict) and document.get("apiVersion") and document.get("kind") and isinstance(document.get("metadata"), dict)
        if document is not None and not named:
            raise ManifestError(f"{file} holds something without apiVersion, kind or metadata")
    return [document for document in documents if document is not None]

"""What goes wrong with a cluster on this machine."""

from __future__ import annotations

from twinstack.net.errors import Error


class LabError(Error):
    """A cluster cannot be made, found or removed; the message is one line that says why, and what would help."""

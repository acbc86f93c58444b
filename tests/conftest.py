"""What holds for the whole suite: in CI, a skipped test is a failed run."""

from __future__ import annotations

import json
import os
import re
import subprocess

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("house", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
settings.load_profile("house")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = len(reporter.stats.get("skipped", ())) if reporter else 0
    if os.environ.get("CI") and skipped and session.exitstatus == 0:
        reporter.write_line(f"{skipped} tests were skipped, which CI does not allow", red=True)
        session.exitstatus = 1


@pytest.fixture(scope="session")
def kubectl_minor() -> int:
    """The minor version of the kubectl on the PATH: 20 for Debian 12's, which knows less than today's."""
    done = subprocess.run(["kubectl", "version", "--client", "-o", "json"], capture_output=True, text=True, check=True, timeout=30)
    found = re.match(r"[0-9]+", json.loads(done.stdout)["clientVersion"]["minor"])
    assert found
    return int(found[0])

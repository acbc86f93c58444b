"""What the server publishes about itself is what it does: schemathesis draws requests from our own OpenAPI, and a real server answers them.

Each operation is asked a few times, as the schema draws it and aimed at what exists. No answer may be the server's fault; each
failure is a Status, each success of a content type and a shape that the schema declares.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import response_schema_conformance

from twinstack.api.resources import SERVED

GROUP_VERSIONS = sorted({f"apis/{resource.api_version}" if resource.group else f"api/{resource.version}" for resource in SERVED})
EXAMPLES = int(os.environ.get("TWINSTACK_SCHEMA_EXAMPLES", "3"))
SECONDS = 20.0
NAMES = st.sampled_from(["a", "b", "default", "10.96.0.9", "kubernetes"])
TOKEN = "a-token-for-tests"


def without_nulls(value: Any) -> Any:
    """Kubernetes says null for what is not there, and its schema does not say so."""
    if isinstance(value, dict):
        return {key: without_nulls(one) for key, one in value.items() if one is not None}
    return [without_nulls(one) for one in value] if isinstance(value, list) else value


class Questioner:
    """Asks every operation of one published document."""

    def __init__(self, url: str, certificate: Path, where: str) -> None:
        self.url, self.certificate = url, str(certificate)
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["Authorization"] = f"Bearer {TOKEN}"
        document = self.session.get(f"{url}/openapi/v3/{where}", verify=self.certificate, timeout=SECONDS).json()
        found = [one.ok() for one in schemathesis.openapi.from_dict(document).get_all_operations()]
        found = [one for one in found if "/proxy" not in one.path]  # whatever stands behind a proxy answers as it likes
        # Creating comes first and deleting last, so that there is something between.
        self.operations = sorted(found, key=lambda one: ("post", "get", "patch", "put", "delete").index(one.method))
        self.codes: Counter[str] = Counter()

    def ask(self, case: Any, name: str, aimed: bool) -> None:
        """Send one request, as it was drawn or aimed, and look at the answer."""
        if aimed:
            case.path_parameters = {key: {"namespace": "default", "name": name}.get(key, value) for key, value in (case.path_parameters or {}).items()}
            case.query = {key: value for key, value in (case.query or {}).items() if key in ("limit", "pretty", "dryRun")}
            if isinstance(case.body, dict):
                case.body["metadata"] = {"name": name}
                for field in ("apiVersion", "kind"):
                    case.body.pop(field, None)
        if case.query and "watch" in case.query:
            case.query["timeoutSeconds"] = 1  # or it would go on
        answer = case.call(base_url=self.url, session=self.session, verify=self.certificate, timeout=SECONDS)
        self.codes[f"{case.method} {answer.status_code}"] += 1
        said = f"{case.method} {answer.request.url} {str(case.body)[:1500]} → {answer.status_code} {answer.content[:1500]!r}"
        assert answer.status_code < 500, said
        content_type = answer.headers["content-type"][0].partition(";")[0]
        if answer.status_code >= 400:
            assert content_type == "application/json" and json.loads(answer.content)["kind"] == "Status", said
            assert json.loads(answer.content)["code"] == answer.status_code, said
        else:
            declared = case.operation.definition.raw["responses"]
            assert str(answer.status_code) in declared, said
            assert content_type in declared[str(answer.status_code)]["content"], said
            if not (case.query and "watch" in case.query):
                document = without_nulls(json.loads(answer.content))
                # What goes in its own time is shown, and so is a collection that went; the schema knows only the end of it.
                if case.method != "DELETE" or not ("metadata" in document and {"deletionTimestamp", "resourceVersion"} & set(document["metadata"])):
                    answer.content = json.dumps(document).encode()
                    case.validate_response(answer, checks=[response_schema_conformance])

    def ask_everything(self) -> Counter[str]:
        """What was answered how often."""
        for operation in self.operations:

            @seed(1)
            @settings(max_examples=EXAMPLES, database=None, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
            @given(case=operation.as_strategy(), name=NAMES, aimed=st.booleans())
            def ask(case: Any, name: str, aimed: bool) -> None:
                self.ask(case, name, aimed)

            ask()
        return self.codes


@pytest.mark.slow
@pytest.mark.parametrize("where", GROUP_VERSIONS)
async def test_whatever_the_published_schema_allows_is_answered_as_it_says(serve: Any, where: str) -> None:
    api = await serve()
    questioner = await asyncio.to_thread(Questioner, api.url, api.data_dir / "pki" / "apiserver.crt", where)
    with questioner.session:
        codes = await asyncio.to_thread(questioner.ask_everything)
    assert sum(codes.values()) >= len(questioner.operations)
    assert {int(one.split()[1]) for one in codes} & {200, 201, 422}, f"it is no test if everything is refused at the first glance: {codes}"

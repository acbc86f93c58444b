"""Failures to Status documents and back."""

from __future__ import annotations

import pytest

from twinstack.api import errors
from twinstack.api.errors import FieldProblem, ProblemType


@pytest.mark.parametrize(
    "cls", [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.APIError) and cls is not errors.APIError]
)
def test_the_client_raises_the_class_that_the_server_raised(cls):
    again = errors.from_status(cls("no", group="apps", kind="deployments", name="web", retry_after_seconds=3).status())
    assert type(again) is cls
    assert (again.message, again.group, again.kind, again.name, again.retry_after_seconds, again.http_code) == ("no", "apps", "deployments", "web", 3, cls.code)


def test_messages_keep_the_shape_that_people_match_on():
    assert str(errors.not_found("services", "web")) == 'services "web" not found'
    assert str(errors.already_exists("deployments", "web", group="apps")) == 'deployments.apps "web" already exists'
    one = FieldProblem("spec.ipFamilies[1]", ProblemType.INVALID, "IPv6", "not configured on this cluster")
    two = FieldProblem("spec.ports", ProblemType.REQUIRED)
    assert str(errors.invalid("Service", "web", [one])) == 'Service "web" is invalid: spec.ipFamilies[1]: Invalid value: "IPv6": not configured on this cluster'
    both = errors.invalid("Service", "web", [one, two, one])
    assert str(both).endswith("[" + str(one) + ", spec.ports: Required value]")
    assert [cause["field"] for cause in both.status()["details"]["causes"]] == ["spec.ipFamilies[1]", "spec.ports", "spec.ipFamilies[1]"]


def test_an_unknown_reason_is_known_by_its_code():
    assert type(errors.from_status({"code": 409, "reason": "Odd"})) is errors.Conflict
    assert type(errors.from_status({}, http_code=418)) is errors.APIError

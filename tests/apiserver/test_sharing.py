"""What objects of the API server's cache share."""

from __future__ import annotations

import pytest

from twinstack.apiserver.sharing import Sharing


def test_equal_labels_are_one_and_nobody_else_can_change_them() -> None:
    sharing = Sharing()
    given = {"app": "web", "tier": "front"}
    one = sharing.labels(given)
    given["app"] = "other"
    assert one == {"app": "web", "tier": "front"} and sharing.labels({"app": "web", "tier": "front"}) is one
    assert sharing.labels({"app": "web"}) != one and sharing.labels(None) == {} == sharing.labels({})


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        pytest.param({"spec.nodeName": "n1", "status.phase": "Running"}, "spec.nodeName", "n1", id="the first"),
        pytest.param({"spec.nodeName": "n1", "status.phase": "Running"}, "status.phase", "Running", id="the last"),
        pytest.param({"status.phase": "Running", "spec.nodeName": "n1"}, "spec.nodeName", "n1", id="the same in another order"),
        pytest.param({"spec.nodeName": "n1"}, "status.phase", "", id="one that it has not"),
        pytest.param({}, "spec.nodeName", "", id="one of an object without any"),
    ],
)
def test_a_field_is_found_in_its_place(given: dict[str, str], name: str, value: str) -> None:
    sharing = Sharing()
    sharing.fields({"spec.nodeName": "other", "status.phase": "Pending"})
    assert sharing.fields(given).get(name) == value


def test_what_is_remembered_stays_bounded_and_right() -> None:
    sharing = Sharing()
    for number in range(40_000):
        assert sharing.fields({"name": f"n{number}"}).get("name") == f"n{number}"
        assert sharing.labels({"app": f"a{number}"}) == {"app": f"a{number}"}
    assert len(sharing._texts) <= 16_384 and len(sharing._labels) <= 16_384

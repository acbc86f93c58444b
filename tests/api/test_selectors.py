"""Label and field selectors."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.api.errors import BadRequest
from twinstack.api.kinds import LabelSelector, LabelSelectorRequirement
from twinstack.api.selectors import of_map, of_selector, parse_fields, parse_labels

WEB = {"app": "web", "tier": "front"}


@pytest.mark.parametrize(
    "text, labels, matches",
    [
        pytest.param("", WEB, True, id="no condition matches everything"),
        pytest.param("app=web", WEB, True, id="one equals sign"),
        pytest.param("app == web", WEB, True, id="two equals signs, with spaces"),
        pytest.param("app!=web", WEB, False, id="unequal"),
        pytest.param("app!=web", {}, True, id="an absent label is unequal to any value"),
        pytest.param("app in (web, api),tier", WEB, True, id="a set, and a label that must exist"),
        pytest.param("app notin (web)", WEB, False, id="not in a set"),
        pytest.param("app notin (web)", {}, True, id="an absent label is in no set"),
        pytest.param("!debug", WEB, True, id="a label that must not exist"),
        pytest.param("app=", {"app": ""}, True, id="an empty value"),
        pytest.param("app=,tier=front", WEB, False, id="an empty value before another condition"),
        pytest.param("app in (web,)", {"app": ""}, True, id="a set that holds the empty value"),
        pytest.param("example.com/in=in", {"example.com/in": "in"}, True, id="words of the grammar as names"),
        pytest.param("!service.kubernetes.io/headless", {}, True, id="the condition that kube-proxy watches slices with"),
    ],
)
def test_a_label_selector(text, labels, matches):
    assert parse_labels(text).matches(labels) is matches


@pytest.mark.parametrize("text", ["app=web=x", "app in web", "app in (web", ",app", "app,", "-app", "app=we b", "a//b", "app=" + "x" * 64])
def test_a_bad_label_selector_is_a_bad_request(text):
    with pytest.raises(BadRequest):
        parse_labels(text)


def test_a_workloads_selector_needs_all_its_parts():
    selector = of_selector(
        LabelSelector(matchLabels={"app": "web"}, matchExpressions=[LabelSelectorRequirement(key="tier", operator="NotIn", values=["back"])])
    )
    assert selector is not None
    assert selector.matches(WEB) and not selector.matches({"app": "web", "tier": "back"}) and not selector.matches({})
    assert of_selector(None) is None
    assert of_map({"app": "web"}).matches(WEB) and not of_map({"app": "api"}).matches(WEB)


def test_field_selectors_escape_commas_and_equals_signs():
    found = parse_fields(r"spec.nodeName=a\,b,status.phase!=Running,x==c\=d")
    assert [(one.path, one.value, one.equal) for one in found] == [("spec.nodeName", "a,b", True), ("status.phase", "Running", False), ("x", "c=d", True)]
    with pytest.raises(BadRequest):
        parse_fields("nonsense")


@given(st.text(alphabet="ab,()!= \tin/.-", max_size=30))
def test_any_text_is_a_selector_or_a_bad_request(text):
    with contextlib.suppress(BadRequest):
        parse_labels(text).matches({"a": "b"})
    with contextlib.suppress(BadRequest):
        parse_fields(text)

"""Documents and views of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from twinstack.api import kinds
from twinstack.api.objects import Key, decode_view, document_of, encode, key_of, read, view_of, write
from twinstack.api.resources import BY_KIND, BY_PATH, SERVED, resource_of

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), json_values, max_size=4), st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=3), st.integers())
def test_writing_a_field_back_keeps_all_others(document, path, value):
    before = encode(document)
    sibling = {key: encode(item) for key, item in document.items() if key != path[0]}
    write(document, path, value)
    assert read(document, path) == value
    assert {key: encode(item) for key, item in document.items() if key != path[0]} == sibling
    write(document, path, None)
    assert read(document, path) is None
    assert before is not None


def test_a_view_skips_what_it_does_not_know_and_leaves_defaults_out():
    document = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "novel": 1}, "spec": {"clusterIPs": ["10.96.0.9"], "future": True}}
    service = view_of(kinds.Service, document)
    assert service.spec.clusterIPs == ["10.96.0.9"] and service.spec.type == "ClusterIP"
    assert decode_view(kinds.Service, encode(document)) == service
    assert document_of(service) == {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"clusterIPs": ["10.96.0.9"]}}


def test_keys_are_texts_and_back():
    for key in (Key("demo", "web"), Key("", "node1")):
        assert Key.parse(str(key)) == key
    assert key_of({"metadata": {"namespace": "demo", "name": "web"}}) == Key("demo", "web")


def test_the_table_of_resources_has_each_kind_once():
    assert len(BY_KIND) == len(BY_PATH) == len(SERVED) == len({resource.view for resource in SERVED})
    assert resource_of(kinds.Deployment).path("demo", "web", "scale") == "/apis/apps/v1/namespaces/demo/deployments/web/scale"
    assert resource_of(kinds.Node).path(name="node1") == "/api/v1/nodes/node1"
    assert resource_of(kinds.Pod).path() == "/api/v1/pods"

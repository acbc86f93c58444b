"""Metadata and names: what every object must look like, and what may never change."""

from __future__ import annotations

import pytest

from twinstack.rules import names
from twinstack.rules.metadata import ANNOTATIONS_SIZE, problems_with_metadata, problems_with_metadata_update

OWNER = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "a", "uid": "u", "controller": True}


@pytest.mark.parametrize(
    "metadata, found",
    [
        pytest.param({}, [], id="a plain object"),
        pytest.param({"name": ""}, [("metadata.name", "FieldValueRequired")], id="no name"),
        pytest.param({"name": "Bad_"}, [("metadata.name", "FieldValueInvalid")], id="a bad name"),
        pytest.param({"generateName": "good-"}, [], id="a generated name goes on after its hyphen"),
        pytest.param({"generateName": "Bad_"}, [("metadata.generateName", "FieldValueInvalid")], id="a bad beginning"),
        pytest.param({"namespace": ""}, [("metadata.namespace", "FieldValueRequired")], id="no namespace"),
        pytest.param({"labels": {"a b": "c"}}, [("metadata.labels", "FieldValueInvalid")], id="a bad label key"),
        pytest.param({"labels": {"a": "b c"}}, [("metadata.labels", "FieldValueInvalid")], id="a bad label value"),
        pytest.param({"labels": {"a": "x" * 64}}, [("metadata.labels", "FieldValueInvalid")], id="a label value that is too long"),
        pytest.param({"annotations": {"Upper.example/Key": "any value at all"}}, [], id="an annotation key in upper case"),
        pytest.param({"annotations": {"a b": ""}}, [("metadata.annotations", "FieldValueInvalid")], id="a bad annotation key"),
        pytest.param({"annotations": {"a": "x" * ANNOTATIONS_SIZE}}, [("metadata.annotations", "FieldValueTooLong")], id="too many annotations"),
        pytest.param({"ownerReferences": [OWNER]}, [], id="an owner"),
        pytest.param({"ownerReferences": [{**OWNER, "uid": ""}]}, [("metadata.ownerReferences[0].uid", "FieldValueInvalid")], id="an owner without a uid"),
        pytest.param({"ownerReferences": [OWNER, {**OWNER, "name": "b"}]}, [("metadata.ownerReferences", "FieldValueInvalid")], id="two controllers"),
        pytest.param({"finalizers": ["example.com/a", "kubernetes"]}, [], id="finalizers"),
        pytest.param({"finalizers": ["plain"]}, [("metadata.finalizers[0]", "FieldValueInvalid")], id="a finalizer without a domain"),
        pytest.param({"finalizers": ["a/b/c"]}, [("metadata.finalizers", "FieldValueInvalid")], id="a finalizer that is no name"),
        pytest.param({"finalizers": ["orphan", "foregroundDeletion"]}, [("metadata.finalizers", "FieldValueInvalid")], id="finalizers that exclude each other"),
    ],
)
def test_metadata(metadata, found):
    document = {"metadata": {"name": "a", "namespace": "default", **metadata}}
    problems = problems_with_metadata(document, name_problem=names.subdomain_problem, namespaced=True)
    assert [(problem.path, problem.type.reason) for problem in problems] == found


def test_a_cluster_wide_object_has_no_namespace():
    problems = problems_with_metadata({"metadata": {"name": "a", "namespace": "b"}}, name_problem=names.subdomain_problem, namespaced=False)
    assert [(problem.path, problem.type.reason) for problem in problems] == [("metadata.namespace", "FieldValueForbidden")]


@pytest.mark.parametrize(
    "after, before, found",
    [
        pytest.param({"labels": {"a": "b"}}, {}, [], id="labels change"),
        pytest.param({"uid": "v"}, {"uid": "u"}, ["metadata.uid"], id="a uid does not"),
        pytest.param({"name": "b"}, {"name": "a"}, ["metadata.name"], id="nor a name"),
        pytest.param({"generation": 1}, {"generation": 2}, ["metadata.generation"], id="a generation does not go back"),
        pytest.param(
            {"deletionTimestamp": "t", "finalizers": ["a.b/c", "a.b/d"]}, {"deletionTimestamp": "t", "finalizers": ["a.b/c"]}, ["metadata.finalizers"],
            id="nothing holds back what is being deleted",
        ),
        pytest.param({"deletionTimestamp": "t"}, {"deletionTimestamp": "t", "finalizers": ["a.b/c"]}, [], id="but it may be let go"),
    ],
)  # fmt: skip
def test_changes_of_metadata(after, before, found):
    assert [problem.path for problem in problems_with_metadata_update({"metadata": after}, {"metadata": before})] == found


@pytest.mark.parametrize(
    "check, good, bad",
    [
        (names.label_problem, ["a", "1", "a-b", "x" * 63], ["", "A", "-a", "a-", "a.b", "x" * 64, "a\n"]),
        (names.label_1035_problem, ["a", "a1"], ["1a", "", "A"]),
        (names.subdomain_problem, ["a", "a.b-c.1", "x" * 253], ["", "a..b", ".a", "a_b", "x" * 254]),
        (names.qualified_problem, ["a", "A_b.C", "example.com/x"], ["", "a/b/c", "/a", "a/", "Bad/x", "x" * 64, "-a"]),
        (names.label_value_problem, ["", "a", "A_b.1"], ["-a", "a b", "x" * 64]),
        (names.port_name_problem, ["http", "a1"], ["", "80", "a--b", "-a", "x" * 16, "HTTP"]),
        (names.config_key_problem, ["a.b", ".x", "_"], ["", ".", "..", "..a", "a b", "a/b"]),
        (names.environment_name_problem, ["A", "a b", "1"], ["", "a=b", "ä"]),
        (names.path_segment_problem, ["a", "Bad_Name"], [".", "..", "a/b", "a%b"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_names(check, good, bad):
    assert [name for name in good if check(name)] == []
    assert [name for name in bad if not check(name)] == []

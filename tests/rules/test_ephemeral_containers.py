"""Containers that are added to a running pod: what they may be."""

from __future__ import annotations

import pytest

from twinstack.rules.pod_validation import problems_with_ephemeral_containers

USUAL = {"image": "x", "imagePullPolicy": "IfNotPresent"}
OLD = {"name": "old", **USUAL}


def pod(*ephemeral):
    return {"spec": {"containers": [{"name": "c", **USUAL}], "volumes": [{"name": "v", "emptyDir": {}}], "ephemeralContainers": list(ephemeral)}}


@pytest.mark.parametrize(
    ("containers", "found"),
    [
        pytest.param([OLD, {"name": "new", **USUAL, "targetContainerName": "c"}], [], id="one more, beside a container"),
        pytest.param([OLD, {"name": "new", **USUAL, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}], [], id="with a volume of the pod"),
        pytest.param([], ["spec.ephemeralContainers"], id="none is taken away"),
        pytest.param([{**OLD, "image": "y"}], ["spec.ephemeralContainers"], id="none is changed"),
        pytest.param([OLD, {"name": "c", **USUAL}], ["spec.ephemeralContainers[1].name"], id="no name stands twice"),
        pytest.param([OLD, {**USUAL}], ["spec.ephemeralContainers[1].name"], id="each has a name"),
        pytest.param([OLD, {"name": "N", **USUAL}], ["spec.ephemeralContainers[1].name"], id="which is a label"),
        pytest.param([OLD, {"name": "new", **USUAL, "image": ""}], ["spec.ephemeralContainers[1].image"], id="each has an image"),
        pytest.param([OLD, {"name": "new", **USUAL, "targetContainerName": "old"}], ["spec.ephemeralContainers[1].targetContainerName"], id="a real target"),
        pytest.param(
            [OLD, {"name": "new", **USUAL, "ports": [{"containerPort": 1}], "resources": {"limits": {"cpu": "1"}}}],
            ["spec.ephemeralContainers[1].ports", "spec.ephemeralContainers[1].resources"],
            id="nobody reckons with it",
        ),
        pytest.param(
            [OLD, {"name": "new", **USUAL, "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "x"}]}],
            ["spec.ephemeralContainers[1].volumeMounts[0].subPath"],
            id="volumes are seen whole",
        ),
    ],
)
def test_what_may_look_into_a_pod(containers, found):
    assert [problem.path for problem in problems_with_ephemeral_containers(pod(*containers), pod(OLD))] == found

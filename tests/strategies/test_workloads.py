"""What kinds that make pods add to a request: defaults, refusals, what may change, what counts as a new generation."""

from __future__ import annotations

import pytest

CONTAINER = {"name": "c", "image": "example.com/c:1"}
TEMPLATE = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [CONTAINER]}}
WORKLOAD = {"selector": {"matchLabels": {"app": "x"}}, "template": TEMPLATE}


@pytest.mark.parametrize(
    "spec, causes",
    [
        pytest.param({"selector": {}}, [("spec.selector", "FieldValueInvalid")], id="a selector of everything"),
        pytest.param(
            {"selector": {"matchLabels": {"app": "y"}}}, [("spec.template.metadata.labels", "FieldValueInvalid")], id="a selector that misses its own pods"
        ),
        pytest.param({"replicas": -1}, [("spec.replicas", "FieldValueInvalid")], id="fewer than none"),
        pytest.param(
            {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}},
            [("spec.strategy.rollingUpdate.maxUnavailable", "FieldValueInvalid")],
            id="an update that could not move",
        ),
        pytest.param(
            {"minReadySeconds": 10, "progressDeadlineSeconds": 5}, [("spec.progressDeadlineSeconds", "FieldValueInvalid")], id="a deadline before readiness"
        ),
        pytest.param(
            {"template": {**TEMPLATE, "spec": {"containers": [CONTAINER], "restartPolicy": "Never"}}},
            [("spec.template.spec.restartPolicy", "FieldValueNotSupported")],
            id="pods that end",
        ),
    ],
)
async def test_deployments_that_are_refused(new_server, spec, causes):
    server = await new_server()
    assert await server.causes(server.post("deployments", {"metadata": {"name": "a"}, "spec": {**WORKLOAD, **spec}})) == causes


async def test_a_deployments_generation_counts_its_spec_and_not_its_status(new_server):
    server = await new_server()
    made = await server.post("deployments", {"metadata": {"name": "a"}, "spec": WORKLOAD, "status": {"replicas": 5}})
    assert made["status"] == {} and made["metadata"]["generation"] == 1
    assert (await server.patch("deployments", "a", {"spec": {"replicas": 2}}))["metadata"]["generation"] == 2
    reported = await server.patch("deployments", "a", {"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 9}, "status": {"replicas": 2}}, sub="status")
    assert reported["metadata"]["generation"] == 2 and "labels" not in reported["metadata"]
    assert reported["spec"]["replicas"] == 2 and reported["status"] == {"replicas": 2}


async def test_the_selector_of_a_deployment_never_changes(new_server, samples):
    server = await new_server()
    await server.post("deployments", samples["deployments"])
    patch = {"spec": {"selector": {"matchLabels": {"b": "c"}}, "template": {"metadata": {"labels": {"b": "c"}}}}}
    assert ("spec.selector", "FieldValueInvalid") in await server.causes(server.patch("deployments", "a", patch))


@pytest.mark.parametrize(
    "changes, causes",
    [
        pytest.param({"updateStrategy": {"type": "Sometimes"}}, [("spec.updateStrategy", "FieldValueNotSupported")], id="a strategy that is none"),
        pytest.param(
            {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}},
            [("spec.updateStrategy.rollingUpdate.maxUnavailable", "FieldValueRequired")],
            id="nothing may be away and nothing may be more",
        ),
        pytest.param(
            {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 1, "maxSurge": "10%"}}},
            [("spec.updateStrategy.rollingUpdate.maxSurge", "FieldValueInvalid")],
            id="both at once",
        ),
        pytest.param(
            {"updateStrategy": {"rollingUpdate": {"maxUnavailable": "120%"}}},
            [("spec.updateStrategy.rollingUpdate.maxUnavailable", "FieldValueInvalid")],
            id="more than all",
        ),
        pytest.param({"selector": {"matchLabels": {"x": "y"}}}, [("spec.template.metadata.labels", "FieldValueInvalid")], id="a selector of others"),
        pytest.param({"revisionHistoryLimit": -1}, [("spec.revisionHistoryLimit", "FieldValueInvalid")], id="a negative history"),
    ],
)
async def test_what_a_daemon_set_may_not_say(new_server, changes, causes, samples):
    server = await new_server()
    sample = samples["daemonsets"]
    assert await server.causes(server.post("daemonsets", {**sample, "spec": {**sample["spec"], **changes}})) == causes


async def test_a_daemon_set_counts_its_templates(new_server, samples):
    server = await new_server()
    made = await server.post("daemonsets", samples["daemonsets"])
    assert made["status"] == {"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0}
    assert made["spec"]["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}
    counts = []
    for patch in ({"spec": {"minReadySeconds": 2}}, {"spec": {"template": {"spec": {"priorityClassName": "x"}}}}, {"metadata": {"annotations": None}}):
        changed = await server.patch("daemonsets", "a", patch)
        counts.append((changed["metadata"]["generation"], changed["metadata"]["annotations"]["deprecated.daemonset.template.generation"]))
    assert counts == [(2, "1"), (3, "2"), (3, "2")]
    assert await server.causes(server.patch("daemonsets", "a", {"status": {"numberReady": -1}}, sub="status")) == [("status.numberReady", "FieldValueInvalid")]


async def test_a_replication_controller_takes_its_selector_and_labels_from_its_template(new_server, samples):
    server = await new_server()
    made = await server.post("replicationcontrollers", samples["replicationcontrollers"])
    assert (made["spec"]["selector"], made["metadata"]["labels"], made["spec"]["replicas"], made["status"]) == ({"app": "x"}, {"app": "x"}, 1, {"replicas": 0})
    assert await server.causes(server.patch("replicationcontrollers", "a", {"spec": {"selector": {"b": "c"}}})) == [
        ("spec.template.metadata.labels", "FieldValueInvalid")
    ]
    moved = await server.patch("replicationcontrollers", "a", {"spec": {"selector": {"b": "c", "app": None}, "template": {"metadata": {"labels": {"b": "c"}}}}})
    assert (moved["spec"]["selector"], moved["metadata"]["generation"]) == ({"b": "c"}, 2), "its selector may change"
    problem = [("spec.selector", "FieldValueRequired"), ("spec.replicas", "FieldValueInvalid")]
    bare = {"metadata": {"name": "b"}, "spec": {"replicas": -1, "template": {"spec": {"containers": [CONTAINER]}}}}
    assert sorted(await server.causes(server.post("replicationcontrollers", bare))) == sorted(problem)


async def test_what_a_stateful_set_may_not_say_and_may_not_change(new_server, samples):
    server = await new_server()
    made = await server.post("statefulsets", samples["statefulsets"])
    assert made["status"] == {"replicas": 0, "availableReplicas": 0}
    assert made["spec"]["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}
    assert (made["spec"]["podManagementPolicy"], made["spec"]["replicas"], made["spec"]["revisionHistoryLimit"]) == ("OrderedReady", 1, 10)
    for change, causes in (
        ({"volumeClaimTemplates": [{"metadata": {"name": "d"}}]}, [("spec.volumeClaimTemplates", "FieldValueForbidden")]),
        ({"podManagementPolicy": "Any"}, [("spec.podManagementPolicy", "FieldValueInvalid")]),
        ({"updateStrategy": {"type": "OnDelete", "rollingUpdate": {}}}, [("spec.updateStrategy.rollingUpdate", "FieldValueInvalid")]),
        ({"updateStrategy": {"rollingUpdate": {"partition": -1}}}, [("spec.updateStrategy.rollingUpdate.partition", "FieldValueInvalid")]),
        ({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}}, [("spec.updateStrategy.rollingUpdate.maxUnavailable", "FieldValueInvalid")]),
        ({"ordinals": {"start": -1}}, [("spec.ordinals.start", "FieldValueInvalid")]),
        ({"serviceName": "a.b"}, [("spec.serviceName", "FieldValueInvalid")]),
    ):
        sample = {"metadata": {"name": "b"}, "spec": {**samples["statefulsets"]["spec"], **change}}
        assert await server.causes(server.post("statefulsets", sample)) == causes
    assert await server.causes(server.patch("statefulsets", "a", {"spec": {"serviceName": "b"}})) == [("spec", "FieldValueForbidden")]
    assert (await server.patch("statefulsets", "a", {"spec": {"replicas": 4}}))["metadata"]["generation"] == 2
    told = await server.causes(server.patch("statefulsets", "a", {"status": {"replicas": 1, "currentReplicas": 2}}, sub="status"))
    assert told == [("status.currentReplicas", "FieldValueInvalid")]


async def test_a_kept_template_stays_as_it_is(new_server, samples):
    server = await new_server()
    await server.post("controllerrevisions", samples["controllerrevisions"])
    assert (await server.patch("controllerrevisions", "a", {"revision": 4}))["revision"] == 4
    assert await server.causes(server.patch("controllerrevisions", "a", {"data": {"spec": {"x": 1}}})) == [("data", "FieldValueInvalid")]


async def test_a_job_selects_its_own_pods_and_its_policies_go_together(new_server, samples):
    server = await new_server()
    made = await server.post("jobs", samples["jobs"])
    uid = made["metadata"]["uid"]
    assert made["spec"]["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    assert made["spec"]["template"]["metadata"]["labels"] == {
        "controller-uid": uid, "batch.kubernetes.io/controller-uid": uid, "job-name": "a", "batch.kubernetes.io/job-name": "a",
    }  # fmt: skip
    assert [made["spec"][field] for field in ("parallelism", "completions", "backoffLimit", "suspend", "completionMode")] == [1, 2, 6, False, "NonIndexed"]
    spec = samples["jobs"]["spec"]
    for change, causes in (
        ({"completionMode": "Some"}, [("spec.completionMode", "FieldValueNotSupported")]),
        ({"completionMode": "Indexed", "completions": None, "parallelism": 2}, [("spec.completions", "FieldValueRequired")]),
        ({"backoffLimitPerIndex": 1}, [("spec.backoffLimitPerIndex", "FieldValueInvalid")]),
        (
            {"podFailurePolicy": {"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [0]}}]}},
            [("spec.podFailurePolicy.rules[0].action", "FieldValueInvalid"), ("spec.podFailurePolicy.rules[0].onExitCodes.values", "FieldValueInvalid")],
        ),
        (
            {"completionMode": "Indexed", "completions": 3, "successPolicy": {"rules": [{"succeededIndexes": "1-3"}]}},
            [("spec.successPolicy.rules[0].succeededIndexes", "FieldValueInvalid")],
        ),
        ({"backoffLimit": -1}, [("spec.backoffLimit", "FieldValueInvalid")]),
        ({"template": {"spec": {"containers": [CONTAINER]}}}, [("spec.template.spec.restartPolicy", "FieldValueRequired")]),
        ({"manualSelector": True}, [("spec.selector", "FieldValueRequired")]),
    ):
        assert await server.causes(server.post("jobs", {"metadata": {"name": "b"}, "spec": {**spec, **change}})) == causes
    assert await server.causes(server.patch("jobs", "a", {"spec": {"completions": 3}})) == [("spec.completions", "FieldValueInvalid")]
    assert (await server.patch("jobs", "a", {"spec": {"parallelism": 3, "suspend": True}}))["metadata"]["generation"] == 2


async def test_what_a_disruption_budget_may_not_say(new_server, samples):
    server = await new_server()
    made = await server.post("poddisruptionbudgets", samples["poddisruptionbudgets"])
    assert made["status"] == dict.fromkeys(("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"), 0)
    for spec, causes in (
        ({"minAvailable": 1, "maxUnavailable": 1}, [("spec", "FieldValueInvalid")]),
        ({"minAvailable": -1}, [("spec.minAvailable", "FieldValueInvalid")]),
        ({"maxUnavailable": "101%"}, [("spec.maxUnavailable", "FieldValueInvalid")]),
        ({"unhealthyPodEvictionPolicy": "Never"}, [("spec.unhealthyPodEvictionPolicy", "FieldValueNotSupported")]),
    ):
        assert await server.causes(server.post("poddisruptionbudgets", {"metadata": {"name": "b"}, "spec": spec})) == causes


async def test_what_a_cron_job_may_not_say(new_server, samples):
    server = await new_server()
    made = await server.post("cronjobs", samples["cronjobs"])
    spec = made["spec"]
    limits = [spec[field] for field in ("concurrencyPolicy", "suspend", "successfulJobsHistoryLimit", "failedJobsHistoryLimit")]
    # A Job has its own defaults when it is made.
    assert limits == ["Allow", False, 3, 1] and "backoffLimit" not in spec["jobTemplate"]["spec"]
    for change, causes in (
        ({"schedule": "TZ=UTC 0 0 * * *"}, [("spec.schedule", "FieldValueInvalid")]),
        ({"schedule": "61 * * * *"}, [("spec.schedule", "FieldValueInvalid")]),
        ({"timeZone": "Local"}, [("spec.timeZone", "FieldValueInvalid")]),
        ({"concurrencyPolicy": "Maybe"}, [("spec.concurrencyPolicy", "FieldValueNotSupported")]),
        ({"jobTemplate": {"spec": {**spec["jobTemplate"]["spec"], "parallelism": -1}}}, [("spec.jobTemplate.spec.parallelism", "FieldValueInvalid")]),
    ):
        assert await server.causes(server.post("cronjobs", {"metadata": {"name": "b"}, "spec": {**spec, **change}})) == causes
    long_name = {"metadata": {"name": "x" * 53}, "spec": spec}
    assert await server.causes(server.post("cronjobs", long_name)) == [("metadata.name", "FieldValueInvalid")]

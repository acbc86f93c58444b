"""Events through both doors, and NetworkPolicies: what is shown, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from twinstack.api import kinds
from twinstack.api.resources import resource_of
from twinstack.rules.events import core_form, new_form

CORE, NEW = resource_of(kinds.Event), resource_of(kinds.ReportedEvent)
OLD_EVENT = {
    "metadata": {"name": "old"},
    "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
    "reason": "Started", "type": "Normal", "message": "m", "count": 3,
    "source": {"component": "c"}, "firstTimestamp": "2026-01-01T02:00:00.5+02:00", "lastTimestamp": "2026-01-01T00:00:09Z",
}  # fmt: skip
NEW_EVENT = {
    "metadata": {"name": "new"},
    "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
    "reason": "Placed", "type": "Warning", "note": "n", "action": "Bind",
    "eventTime": "2026-01-01T00:00:00.000001Z", "reportingController": "example.com/c", "reportingInstance": "i",
}  # fmt: skip


async def test_an_event_is_one_object_behind_two_doors(new_server):
    server = await new_server()
    await server.post("events", OLD_EVENT)
    await server.post(NEW, NEW_EVENT)
    core, new = server.cache.list(CORE), server.cache.list(NEW)
    assert [one["metadata"] for one in core] == [one["metadata"] for one in new]
    assert [new_form(one)["kind"] for one in core] == ["Event", "Event"]
    by_name = {one["metadata"]["name"]: one for one in new}
    assert by_name["old"]["deprecatedFirstTimestamp"] == "2026-01-01T00:00:00Z", "a time is kept in UTC and whole seconds"
    assert (by_name["old"]["note"], by_name["old"]["deprecatedCount"], by_name["old"]["deprecatedSource"]) == ("m", 3, {"component": "c"})
    assert "reportingController" not in by_name["old"] and by_name["old"]["eventTime"] is None
    seen = server.get("events", "new")
    assert (seen["message"], seen["reportingComponent"], seen["involvedObject"]["name"], seen["source"]) == ("n", "example.com/c", "p", {})
    assert all(core_form(new_form(one)) == {**one, "kind": "Event", "apiVersion": "v1"} for one in core)


async def test_a_change_through_either_door_is_seen_through_both_and_so_is_the_end(new_server):
    server = await new_server()
    made = await server.post(NEW, NEW_EVENT)
    await server.patch("events", "new", {"message": "other"})
    (seen,) = server.cache.list(NEW)
    assert seen["note"] == "other" and seen["metadata"]["resourceVersion"] != made["metadata"]["resourceVersion"]
    await server.deletions.delete(NEW, server.key("new"))
    assert server.cache.list(CORE) == server.cache.list(NEW) == []


async def test_a_restart_shows_events_through_both_doors(new_server):
    server = await new_server()
    await server.post(NEW, NEW_EVENT)
    again = await new_server(store=server.store)
    assert [one["note"] for one in again.cache.list(NEW)] == [one["message"] for one in again.cache.list(CORE)] == ["n"]


@pytest.mark.parametrize(
    "changes, causes",
    [
        pytest.param({"eventTime": None}, [("eventTime", "FieldValueRequired")], id="no time"),
        pytest.param({"type": "Odd"}, [("type", "FieldValueInvalid")], id="a type that is none"),
        pytest.param(
            {"reportingController": ""}, [("reportingController", "FieldValueInvalid"), ("reportingController", "FieldValueRequired")], id="nobody reports"
        ),
        pytest.param({"reportingInstance": ""}, [("reportingInstance", "FieldValueRequired")], id="no instance"),
        pytest.param({"action": ""}, [("action", "FieldValueRequired")], id="nothing was done"),
        pytest.param({"action": "x" * 129}, [("action", "FieldValueInvalid")], id="a long action"),
        pytest.param({"note": "x" * 1025}, [("message", "FieldValueInvalid")], id="a long note"),
        pytest.param({"deprecatedCount": 2}, [("count", "FieldValueInvalid")], id="a count, which the series has now"),
        pytest.param({"deprecatedSource": {"component": "c"}}, [("source", "FieldValueInvalid")], id="a source"),
        pytest.param({"deprecatedFirstTimestamp": "2026-01-01T00:00:00Z"}, [("firstTimestamp", "FieldValueInvalid")], id="an old time"),
        pytest.param(
            {"series": {"count": 1}}, [("series.count", "FieldValueInvalid"), ("series.lastObservedTime", "FieldValueRequired")], id="a series of one"
        ),
        pytest.param(
            {"regarding": {"kind": "Pod", "name": "p"}}, [("involvedObject.namespace", "FieldValueInvalid")], id="about what has no namespace, elsewhere"
        ),
    ],
)
async def test_what_the_new_door_refuses(new_server, changes, causes):
    server = await new_server()
    namespace = "kube-public" if "regarding" in changes else "default"
    event = {name: value for name, value in {**NEW_EVENT, **changes}.items() if value is not None}
    assert await server.causes(server.post(NEW, event, namespace=namespace)) == causes


async def test_through_the_new_door_only_the_series_of_an_event_changes(new_server):
    server = await new_server()
    await server.post(NEW, NEW_EVENT)
    series = {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}

    async def change(patch: dict[str, Any]) -> Any:
        return await server.changes.update(NEW, server.key("new"), lambda stored: {**stored, **patch})

    await change({"series": series})
    assert server.get("events", "new")["series"] == series
    assert await server.causes(change({"note": "other", "reportingController": "example.com/d"})) == [
        ("message", "FieldValueInvalid"),
        ("reportingController", "FieldValueInvalid"),
    ]


@pytest.mark.parametrize("text", ["2026-01-01", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.5Z", "soon"])
async def test_a_time_with_microseconds_has_six_digits_of_them(new_server, text):
    server = await new_server()
    assert (await server.refusal(server.post(NEW, {**NEW_EVENT, "eventTime": text}))).http_code == 400
    assert (await server.refusal(server.post("leases", {"metadata": {"name": "a"}, "spec": {"renewTime": text}}))).http_code == 400


# ---- NetworkPolicies


def rule(**peer: Any) -> dict[str, Any]:
    return {"podSelector": {}, "ingress": [{"from": [peer]}]}


@pytest.mark.parametrize(
    "spec, causes",
    [
        pytest.param(rule(ipBlock={"cidr": ""}), [("spec.ingress[0].from[0].ipBlock.cidr", "FieldValueRequired")], id="no CIDR"),
        pytest.param(rule(ipBlock={"cidr": "fd00::1/64"}), [("spec.ingress[0].from[0].ipBlock.cidr", "FieldValueInvalid")], id="host bits"),
        pytest.param(
            rule(ipBlock={"cidr": "fd00::/64", "except": ["fd00::/80", "fd01::/80", "10.0.0.0/8", "fd00::/64", "x"]}),
            [(f"spec.ingress[0].from[0].ipBlock.except[{i}]", "FieldValueInvalid") for i in (1, 2, 3, 4)],
            id="exceptions that lie outside, are of the other family, are all of it, or are none",
        ),
        pytest.param(rule(), [("spec.ingress[0].from[0]", "FieldValueRequired")], id="nobody"),
        pytest.param(
            rule(ipBlock={"cidr": "fd00::/64"}, namespaceSelector={}), [("spec.ingress[0].from[0]", "FieldValueForbidden")], id="a block and a selector"
        ),
        pytest.param(
            {"egress": [{"ports": [{"port": "http", "endPort": 9}]}]}, [("spec.egress[0].ports[0].endPort", "FieldValueInvalid")], id="from a name to a number"
        ),
        pytest.param({"egress": [{"ports": [{"port": 9, "endPort": 8}]}]}, [("spec.egress[0].ports[0].endPort", "FieldValueInvalid")], id="downwards"),
        pytest.param({"policyTypes": ["Ingress", "Egress", "Ingress"]}, [("spec.policyTypes", "FieldValueInvalid")], id="three types"),
        pytest.param({"podSelector": {"matchLabels": {"a b": "c"}}}, [("spec.podSelector.matchLabels", "FieldValueInvalid")], id="a label that is none"),
    ],
)
async def test_what_a_policy_may_not_say(new_server, spec, causes):
    server = await new_server()
    assert await server.causes(server.post("networkpolicies", {"metadata": {"name": "a"}, "spec": spec})) == causes


async def test_a_policy_says_whom_it_is_about_and_blocks_of_both_families_stand_side_by_side(new_server):
    server = await new_server("v4")  # whatever the cluster's families are
    peers = [{"ipBlock": {"cidr": "FD00::/8"}}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]
    spec = {"podSelector": {}, "ingress": [{"from": peers}], "egress": [{"to": peers, "ports": [{"port": 53}]}]}
    made = await server.post("networkpolicies", {"metadata": {"name": "a"}, "spec": spec})
    assert made["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert made["spec"]["egress"][0]["ports"] == [{"port": 53, "protocol": "TCP"}]
    assert len(server.warnings) == 2 and all("FD00::/8" in warning for warning in server.warnings)
    changed = await server.patch("networkpolicies", "a", {"spec": {"policyTypes": ["Ingress"]}})
    assert (made["metadata"]["generation"], changed["metadata"]["generation"]) == (1, 2)


async def test_an_ip_address_is_named_as_it_was_asked_even_by_a_prefix(new_server):
    server = await new_server()
    parent = {"spec": {"parentRef": {"resource": "things", "name": "x"}}}
    made = await server.post("ipaddresses", {"metadata": {"generateName": "10.96.0.77"}, **parent})
    assert made["metadata"]["name"] == "10.96.0.77"
    cidr = await server.post("servicecidrs", {"metadata": {"generateName": "more-"}, "spec": {"cidrs": ["10.1.0.0/24"]}})
    assert len(cidr["metadata"]["name"]) == len("more-") + 5

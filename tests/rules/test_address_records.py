"""The first look at addresses and their records: whom it passes by, the full judgement would pass by too."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from twinstack.api import kinds
from twinstack.api.objects import Key, view_of
from twinstack.net.cidr import parse_address, parse_cidr
from twinstack.rules import address_records, cidrs
from twinstack.rules.address_records import Holder, HolderSketch, RecordSketch, Survey

RANGES = [parse_cidr("10.96.0.0/29"), parse_cidr("fd00:96::/125")]
NAMES = ["10.96.0.1", "10.96.0.2", "10.96.0.7", "10.97.0.1", "fd00:96::1", "fd00:96::2", "fd00:97::1"]
TEXTS = [*NAMES, "FD00:96::1", "fd00:96:0::2", "None", "", "10.96.0.01"]
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def hands_out(address: Any) -> bool:
    return any(cidrs.hands_out(network, address) for network in RANGES)


def written(name: str, owner: str) -> dict[str, Any]:
    return cidrs.ip_address(parse_address(name), namespace="default", name=owner)


OWNERS = st.sampled_from(["a", "b", "c"])
LABELS = st.sampled_from([None, {}, {cidrs.MANAGER_LABEL: cidrs.MANAGER}, {cidrs.MANAGER_LABEL: cidrs.MANAGER, cidrs.FAMILY_LABEL: "IPv4"}])
PARENTS = st.sampled_from(
    [None, {"resource": "services", "name": "a"}, {"resource": "things", "name": "a"}, {"group": "x", "resource": "services", "name": "a"}]
)
ODD = st.builds(
    lambda name, labels, parent: {"metadata": {"name": name, "labels": labels}, "spec": {"parentRef": parent}}, st.sampled_from(NAMES), LABELS, PARENTS
)
RECORDS = st.lists(st.one_of(st.builds(written, st.sampled_from(NAMES), OWNERS), ODD), max_size=6, unique_by=lambda one: one["metadata"]["name"])
SPECS = st.fixed_dictionaries({"type": st.sampled_from(["ClusterIP", "ClusterIP", "ExternalName"]), "clusterIPs": st.lists(st.sampled_from(TEXTS), max_size=2)})


@given(records=RECORDS, services=st.dictionaries(OWNERS, SPECS))
def test_whoever_the_first_look_passes_by_agrees(records: list[dict[str, Any]], services: dict[str, dict[str, Any]]) -> None:
    recorded = {one["metadata"]["name"]: view_of(kinds.IPAddress, one) for one in records}
    holders = {Key("default", name): view_of(Holder, {"metadata": {"namespace": "default", "name": name}, "spec": spec}) for name, spec in services.items()}
    survey = Survey([address for name in recorded if not hands_out(address := parse_address(name))])
    for one in records:
        survey.take_record(Key("", one["metadata"]["name"]), view_of(RecordSketch, one))
    for name, spec in services.items():
        survey.take_service(Key("default", name), view_of(HolderSketch, {"spec": spec}))
    for key, holder in holders.items():
        found = list(address_records.findings_about_service(key, holder, record_of=recorded.get, holder_of=holders.get, hands_out=hands_out))
        assert not found or key in survey.services, found
    for name, record in recorded.items():
        found = list(address_records.findings_about_record(record, holder_of=holders.get, now=NOW))
        assert not found or Key("", name) in survey.records, found


def test_what_the_server_wrote_itself_is_not_judged() -> None:
    survey = Survey([])
    for name in ("10.96.0.1", "fd00:96::1"):
        survey.take_record(Key("", name), view_of(RecordSketch, written(name, "a")))
    survey.take_service(Key("default", "a"), view_of(HolderSketch, {"spec": {"clusterIPs": ["10.96.0.1", "fd00:96::1"]}}))
    survey.take_service(Key("default", "headless"), view_of(HolderSketch, {"spec": {"clusterIPs": ["None"]}}))
    assert (survey.services, survey.records) == ([], [])

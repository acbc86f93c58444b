"""Protobuf bodies mean what their JSON means: recorded from kubectl, made from the table, and broken on purpose."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
from base64 import b64decode, b64encode
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinstack.api import protobuf
from twinstack.api.protobuf import MAGIC, ProtobufError, decode
from twinstack.api.protobuf_table import TABLE
from twinstack.api.resources import RESOURCES

SCALARS = ("bool", "int32", "int64", "string")
SPECIALS = ("bytes", "Time", "MicroTime", "Quantity", "IntOrString", "JSON", "strings")


def tables() -> dict[tuple[str, str], list[tuple[int, str, str]]]:
    """(section, message) → (number, name, type) of each field; read here in another way than the decoder does."""
    found: dict[tuple[str, str], list[tuple[int, str, str]]] = {}
    for section, body in re.findall(r"^\[(.+?)\]\n(.*?)(?=^\[[a-z0-9./]+\]$|\Z)", TABLE.strip() + "\n", re.MULTILINE | re.DOTALL):
        for name, fields in re.findall(r"^(\w+):((?:.|\n )*)$", body, re.MULTILINE):
            rows = re.findall(r"(\d+) (>\w+|\w+:[\w\[\]{}!]+)", fields)
            found[section, name] = [(int(number), *((text, text) if text[0] == ">" else text.split(":"))) for number, text in rows]  # type: ignore[misc]
    return found


TABLES = tables()
KINDS = sorted((section, name) for section, name in TABLES if (section, name) in {(one.api_version, one.kind) for one in RESOURCES})


def fields_of(section: str, name: str) -> tuple[str, list[tuple[int, str, str]]]:
    """A message's own section and its fields."""
    place = next(place for place in (section, "v1", "meta/v1") if (place, name) in TABLES)
    return place, TABLES[place, name]


# ---- an encoder that writes as Go writes: every field that is no pointer


def varint(number: int) -> bytes:
    number &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out) + bytes([number])


def sized(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def stamp(text: str) -> bytes:
    moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00")) - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return b"\x08" + varint(moment.days * 86400 + moment.seconds) + b"\x10" + varint(moment.microseconds * 1000)


def value_bytes(section: str, type_: str, value: Any) -> bytes:
    """What stands behind a length."""
    match type_:
        case "string":
            return value.encode()
        case "bytes":
            return b64decode(value)
        case "Time" | "MicroTime":
            return stamp(value) if value is not None else b""
        case "Quantity":
            return sized(1, value.encode())
        case "IntOrString":
            is_text = isinstance(value, str)
            return b"\x08" + varint(int(is_text)) + b"\x10" + varint(0 if is_text else value) + sized(3, value.encode() if is_text else b"")
        case "JSON":
            return sized(1, json.dumps(value).encode())
        case "strings":
            return b"".join(sized(1, one.encode()) for one in value)
    return message_bytes(section, type_, value)


def message_bytes(section: str, name: str, document: dict[str, Any]) -> bytes:
    section, fields = fields_of(section, name)
    out = b""
    for number, key, type_ in fields:
        keeps, type_ = type_.endswith("!"), type_.removesuffix("!")
        if key.startswith(">"):
            out += sized(number, message_bytes(section, key[1:], document))
        elif type_[0] == "[":
            for one in document.get(key, ()):
                out += varint(number << 3) + varint(one) if type_ in ("[int32]", "[int64]") else sized(number, value_bytes(section, type_[1:-1], one))
        elif type_[0] == "{":
            for entry, one in document.get(key, {}).items():
                out += sized(number, sized(1, entry.encode()) + sized(2, value_bytes(section, type_[1:-1], one)))
        elif type_ == "string":
            if key in document or not keeps:
                out += sized(number, document.get(key, "").encode())
        elif type_ in SCALARS:
            if key in document or not keeps:
                out += varint(number << 3) + varint(int(document.get(key, 0)))
        elif key in document:
            out += sized(number, value_bytes(section, type_, document[key]))
        elif type_ == "Time":
            out += sized(number, b"")
    return out


def body_of(document: dict[str, Any], *, types: bool = True) -> bytes:
    api_version, kind = document["apiVersion"], document["kind"]
    told = sized(1, api_version.encode()) + sized(2, kind.encode()) if types else b""
    return MAGIC + sized(1, told) + sized(2, message_bytes(api_version, kind, document)) + sized(3, b"") + sized(4, b"")


# ---- documents of every kind


def values(section: str, type_: str, depth: int) -> st.SearchStrategy[Any]:
    texts = st.text(min_size=1, max_size=8)
    moments = st.datetimes(datetime.datetime(1970, 1, 2), datetime.datetime(9998, 1, 1))
    simple = {
        "string": texts,
        "bool": st.just(True),
        "int32": st.integers(-(2**31), 2**31 - 1).filter(bool),
        "int64": st.integers(-(2**63), 2**63 - 1).filter(bool),
        "bytes": st.binary(min_size=1, max_size=8).map(lambda data: b64encode(data).decode()),
        "Time": moments.map(lambda moment: moment.replace(microsecond=0).isoformat() + "Z"),
        "MicroTime": moments.map(lambda moment: moment.isoformat(timespec="microseconds") + "Z"),
        "Quantity": st.sampled_from(("0", "1", "100m", "4Gi")),
        "IntOrString": st.integers(-(2**31), 2**31 - 1) | st.text(max_size=5),
        "JSON": st.dictionaries(texts, st.integers(0, 9) | texts | st.lists(st.booleans(), max_size=2), max_size=2),
        "strings": st.lists(st.text(max_size=4), max_size=3),
    }
    return simple[type_] if type_ in simple else documents(section, type_, depth - 1)


def documents(section: str, name: str, depth: int) -> st.SearchStrategy[dict[str, Any]]:
    @st.composite
    def make(draw: st.DrawFn) -> dict[str, Any]:
        place, fields = fields_of(section, name)
        document: dict[str, Any] = {}
        for _, key, type_ in fields if len(fields) < 4 else draw(st.lists(st.sampled_from(fields), max_size=4, unique=True)):
            keeps, type_ = type_.endswith("!"), type_.removesuffix("!")
            inner = type_.strip("[]{}")
            if key.startswith(">"):
                document |= draw(documents(place, key[1:], depth))
            elif depth <= 0 and inner not in SCALARS + SPECIALS:
                continue
            elif type_[0] == "[":
                plain = {"string": st.text(max_size=4), "int32": st.integers(-(2**31), 2**31 - 1), "int64": st.integers(-(2**63), 2**63 - 1)}
                document[key] = draw(st.lists(plain.get(inner, values(place, inner, depth)), min_size=1, max_size=2))
            elif type_[0] == "{":
                document[key] = draw(st.dictionaries(st.text(max_size=4), values(place, inner, depth), min_size=1, max_size=2))
            elif keeps and type_ in SCALARS:
                document[key] = draw(st.just({"string": "", "bool": False}.get(type_, 0)) | values(place, type_, depth))
            else:
                document[key] = draw(values(place, type_, depth))
        return document

    return make()


def test_the_table_knows_every_kind_that_is_served() -> None:
    assert [resource.qualified for resource in RESOURCES if protobuf.message_of(resource.api_version, resource.kind) is None] == []
    for api_version, kind in (
        ("apps/v1", "DeleteOptions"),
        ("v1", "Status"),
        ("v1", "Binding"),
        ("autoscaling/v1", "Scale"),
        ("policy/v1", "Eviction"),
        ("authentication.k8s.io/v1", "TokenRequest"),
        ("authorization.k8s.io/v1", "SubjectAccessReview"),
    ):
        assert protobuf.message_of(api_version, kind), kind


def test_the_table_is_read_as_it_is_written() -> None:
    assert len(TABLES) == sum(line[0] not in "[ " for line in TABLE.strip().split("\n") if line) > 300
    assert fields_of("apps/v1", "PodSpec")[1][0] == (1, "volumes", "[Volume]")


def test_no_number_stands_twice_in_a_message_and_every_type_is_known() -> None:
    for (section, name), fields in TABLES.items():
        assert len({number for number, _, _ in fields}) == len(fields), name
        for _, key, type_ in fields:
            inner = key[1:] if key[0] == ">" else type_.strip("[]{}!")
            assert inner in SCALARS + SPECIALS or fields_of(section, inner)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KINDS).flatmap(lambda kind: documents(*kind, 4).map(lambda fields: {"kind": kind[1], "apiVersion": kind[0], **fields})), st.booleans())
def test_what_was_written_is_read(document: dict[str, Any], types: bool) -> None:
    assert decode(body_of(document, types=types), api_version=document["apiVersion"], kind=document["kind"]) == document


RECORDED = {
    "service": (
        "6b3873000a0d0a02763112075365727669636512570a250a046865616412001a0464656d6f22002a003200380042005a0b0a03617070120468656164122a120b0a036170701204686561"
        "641a044e6f6e652209436c757374657249503a00420052005a00600068001a020a001a002200",
        {
            "kind": "Service",
            "apiVersion": "v1",
            "metadata": {"name": "head", "namespace": "demo", "labels": {"app": "head"}},
            "spec": {"selector": {"app": "head"}, "clusterIP": "None", "type": "ClusterIP"},
            "status": {"loadBalancer": {}},
        },
    ),
    "deployment with no replica": (
        "6b3873000a150a07617070732f7631120a4465706c6f796d656e7412c6010a230a0377656212001a0464656d6f22002a003200380042005a0a0a0361707012037765621290010800120c0a"
        "0a0a0361707012037765621a760a1c0a0012001a0022002a003200380042005a0a0a036170701203776562125612380a04686f737412127477696e737461636b2e6465762f686f73741a05"
        "736c6565701a01352a0042006a007200800100880100900100a201001a00320042004a0052005800600068008201008a01009a0100c2010022020a00280038001a0c0800100018002000"
        "280038001a002200",
        {
            "kind": "Deployment",
            "apiVersion": "apps/v1",
            "metadata": {"name": "web", "namespace": "demo", "labels": {"app": "web"}},
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "host", "image": "twinstack.dev/host", "command": ["sleep", "5"], "resources": {}}]},
                },
                "strategy": {},
            },
            "status": {},
        },
    ),
    "secret": (
        "6b3873000a0c0a027631120653656372657412210a150a017312001a0464656d6f22002a0032003800420012060a01611201621a001a002200",
        {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "s", "namespace": "demo"}, "data": {"a": "Yg=="}},
    ),
    "token request": (
        "6b3873000a280a1861757468656e7469636174696f6e2e6b38732e696f2f7631120c546f6b656e52657175657374121a0a100a0012001a0022002a0032003800420012001a040a0012001a0022"
        "00",
        {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": {}, "status": {"token": ""}},
    ),
    "access review": (
        "6b3873000a320a17617574686f72697a6174696f6e2e6b38732e696f2f7631121753656c665375626a65637441636365737352657669657712390a100a0012001a0022002a003200380042"
        "00121b0a190a0464656d6f12036765741a0022002a04706f647332003a001a08080012001a0020001a002200",
        {
            "kind": "SelfSubjectAccessReview",
            "apiVersion": "authorization.k8s.io/v1",
            "metadata": {},
            "spec": {"resourceAttributes": {"namespace": "demo", "verb": "get", "resource": "pods"}},
            "status": {"allowed": False},
        },
    ),
    "disruption budget, whose share is a text": (
        "6b3873000a200a09706f6c6963792f76311213506f6444697372757074696f6e427564676574123a0a150a017012001a0464656d6f22002a0032003800420012150a09080110001a03353025"
        "12080a060a01611201621a0a080018002000280030001a002200",
        {
            "kind": "PodDisruptionBudget",
            "apiVersion": "policy/v1",
            "metadata": {"name": "p", "namespace": "demo"},
            "spec": {"minAvailable": "50%", "selector": {"matchLabels": {"a": "b"}}},
            "status": {"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0},
        },
    ),
}


@pytest.mark.parametrize("name", RECORDED)
def test_what_kubectl_sent_means_what_it_prints_as_json(name: str) -> None:
    sent, means = RECORDED[name]
    assert decode(bytes.fromhex(sent)) == means


CONFIGMAP = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}, "data": {"k": "v"}}


def envelope(raw: bytes, kind: str = "ConfigMap", api_version: str = "v1") -> bytes:
    return MAGIC + sized(1, sized(1, api_version.encode()) + sized(2, kind.encode())) + sized(2, raw)


def test_unknown_fields_of_every_shape_are_skipped() -> None:
    strange = varint(900 << 3) + varint(7) + sized(901, b"abc") + varint(902 << 3 | 1) + bytes(8) + varint(903 << 3 | 5) + bytes(4)
    assert decode(envelope(strange + message_bytes("v1", "ConfigMap", CONFIGMAP) + strange)) == CONFIGMAP


def test_a_field_that_comes_twice_counts_as_it_came_last_and_messages_are_joined() -> None:
    first, second = sized(1, sized(1, b"a")), sized(1, sized(3, b"ns") + sized(1, b"b"))
    assert decode(envelope(first + second))["metadata"] == {"name": "b", "namespace": "ns"}
    assert decode(envelope(first + sized(1, sized(1, b""))))["metadata"] == {}


def test_packed_numbers_are_read_as_the_loose_ones() -> None:
    section, name = "v1", "PodSecurityContext"
    number = next(number for number, key, _ in fields_of(section, name)[1] if key == "supplementalGroups")
    loose = varint(number << 3) + varint(5) + varint(number << 3) + varint(-1)
    packed = sized(number, varint(5) + varint(-1))
    for groups in (loose, packed):
        pod = sized(2, sized(14, groups))
        assert decode(envelope(pod, "Pod"))["spec"]["securityContext"]["supplementalGroups"] == [5, -1]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        pytest.param(b"", "begins with", id="nothing"),
        pytest.param(b'{"kind":"ConfigMap"}', "begins with", id="JSON under the wrong name"),
        pytest.param(MAGIC, 'no kind ""', id="an empty envelope, and nothing expected"),
        pytest.param(envelope(b"", "Nonsense"), "Nonsense", id="a kind that is unknown"),
        pytest.param(envelope(b"", "Deployment", "apps/v2"), "apps/v2", id="a version that is unknown"),
        pytest.param(MAGIC + b"\x12\x7f", "longer than", id="an envelope that is cut off"),
        pytest.param(envelope(b"\x0a\x05\x0a"), "longer than", id="a message that is cut off"),
        pytest.param(envelope(b"\x0a\x02\x0a\x05abcde"), "longer than", id="a text longer than its message"),
        pytest.param(envelope(b"\x0a"), "end within", id="a tag without a value"),
        pytest.param(envelope(b"\x08\x01"), "wire type 0, 2 was expected", id="a number where a message stands"),
        pytest.param(envelope(b"\x0a\x03\x0a\x01\xff"), "UTF-8", id="a text that is none"),
        pytest.param(envelope(b"\x00\x00"), "no field's number", id="field 0"),
        pytest.param(envelope(b"\xa3\x38"), "which is not used", id="a group"),
        pytest.param(envelope(b"\xff" * 11), "64 bits", id="a number without an end"),
        pytest.param(envelope(sized(1, sized(8, b"\x08" + varint(2**62)))), "years", id="a time beyond all years"),
        pytest.param(envelope(sized(1, sized(17, sized(7, sized(1, b"{"))))), "holds JSON", id="managed fields that are no JSON"),
        pytest.param(envelope(sized(2, sized(1, sized(4, b"\x08\x05"))), "Service"), "IntOrString", id="a port that is neither number nor text"),
    ],
)
def test_what_is_malformed_is_refused_in_words(body: bytes, complaint: str) -> None:
    with pytest.raises(ProtobufError, match=re.escape(complaint)):
        decode(body)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=80), st.sampled_from(KINDS))
def test_any_bytes_are_a_document_or_an_error_of_ours(data: bytes, kind: tuple[str, str]) -> None:
    for body in (data, MAGIC + data, envelope(data, kind[1], kind[0])):
        try:
            document = decode(body, api_version=kind[0], kind=kind[1])
        except ProtobufError:
            continue
        assert document["kind"]
        json.dumps(document)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(RECORDED)), st.data())
def test_a_body_with_a_byte_changed_or_cut_off_is_a_document_or_an_error_of_ours(name: str, data: st.DataObject) -> None:
    body = bytearray.fromhex(RECORDED[name][0])
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ProtobufError):
        decode(bytes(body[: data.draw(st.integers(place, len(body)))]))

"""OpenAPI v2 documents in the protobuf form that clients ask for (message openapi.v2.Document of google/gnostic).

An encoder only, and only for the parts that we serve: info, paths with their operations and parameters, definitions.
The numbers are those of ``openapiv2/OpenAPIv2.proto``. Vendor extensions hold YAML, of which JSON is a part.

Clients ask for it by a media type with an ``@`` in it, which RFC 9110 does not allow in an answer, and Go refuses to read:
the answer carries the name with a dot instead, which may be asked for as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from twinstack.api.objects import encode

MEDIA_TYPE: Final = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
ASKED_FOR: Final = ("application/com.github.proto-openapi.spec.v2@v1.0+protobuf", MEDIA_TYPE)

_Node = Mapping[str, Any]
_VARINT: Final = 0
_DOUBLE: Final = 1
_LENGTH: Final = 2


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _bytes(number: int, content: bytes) -> bytes:
    """A field that holds text, bytes or a message."""
    return _varint(number << 3 | _LENGTH) + _varint(len(content)) + content


def _text(number: int, text: str | None) -> bytes:
    return _bytes(number, text.encode()) if text else b""


def _flag(number: int, value: Any) -> bytes:
    return _varint(number << 3 | _VARINT) + b"\1" if value else b""


def _texts(number: int, texts: Iterable[str] | None) -> bytes:
    return b"".join(_bytes(number, text.encode()) for text in texts or ())


def _any(value: Any) -> bytes:
    return _bytes(2, encode(value))


def _named(name: str, content: bytes) -> bytes:
    return _bytes(1, name.encode()) + _bytes(2, content)


def _extensions(number: int, node: _Node) -> bytes:
    return b"".join(_bytes(number, _named(key, _any(value))) for key, value in node.items() if key.startswith("x-"))


def _schema(node: _Node) -> bytes:
    """A Schema message."""
    out = [_text(1, node.get("$ref")), _text(2, node.get("format")), _text(4, node.get("description"))]
    if "default" in node:
        out.append(_bytes(5, _any(node["default"])))
    out.append(_texts(19, node.get("required")))
    out += [_bytes(20, _any(value)) for value in node.get("enum") or ()]
    below = node.get("additionalProperties")
    if isinstance(below, Mapping):
        out.append(_bytes(21, _bytes(1, _schema(below))))
    if node.get("type"):
        out.append(_bytes(22, _bytes(1, node["type"].encode())))
    if "items" in node:
        out.append(_bytes(23, _bytes(1, _schema(node["items"]))))
    properties = node.get("properties")
    if properties:
        out.append(_bytes(25, b"".join(_bytes(1, _named(name, _schema(child))) for name, child in properties.items())))
    out.append(_extensions(31, node))
    return b"".join(out)


def _body_parameter(node: _Node) -> bytes:
    content = _text(2, node["name"]) + _text(3, node["in"]) + _flag(4, node.get("required")) + _bytes(5, _schema(node.get("schema") or {}))
    return _bytes(1, content)  # Parameter.body_parameter


def _query_parameter(node: _Node) -> bytes:
    content = _flag(1, node.get("required")) + _text(2, "query") + _text(3, node.get("description")) + _text(4, node["name"]) + _text(6, node["type"])
    return _bytes(2, _bytes(3, content))  # Parameter.non_body_parameter.query_parameter_sub_schema


def _path_parameter(node: _Node) -> bytes:
    content = _flag(1, True) + _text(2, "path") + _text(3, node.get("description")) + _text(4, node["name"]) + _text(5, node["type"])
    return _bytes(2, _bytes(4, content))  # Parameter.non_body_parameter.path_parameter_sub_schema


_PARAMETERS: Final[Mapping[str, Callable[[_Node], bytes]]] = {"body": _body_parameter, "query": _query_parameter, "path": _path_parameter}


def _parameters(number: int, nodes: Iterable[_Node]) -> bytes:
    """Repeated ParametersItem messages."""
    return b"".join(_bytes(number, _bytes(1, _PARAMETERS[node["in"]](node))) for node in nodes)


def _responses(nodes: Mapping[str, _Node]) -> bytes:
    out = []
    for code, node in nodes.items():
        response = _text(1, node["description"])
        if "schema" in node:
            response += _bytes(2, _bytes(1, _schema(node["schema"])))
        out.append(_bytes(1, _named(code, _bytes(1, response))))
    return b"".join(out)


def _operation(node: _Node) -> bytes:
    return b"".join(
        (
            _texts(1, node.get("tags")),
            _text(3, node.get("description")),
            _text(5, node.get("operationId")),
            _texts(6, node.get("produces")),
            _texts(7, node.get("consumes")),
            _parameters(8, node.get("parameters") or ()),
            _bytes(9, _responses(node.get("responses") or {})),
            _extensions(13, node),
        )
    )


_METHODS: Final[Sequence[tuple[str, int]]] = (("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8))


def path_item(path: str, node: _Node) -> bytes:
    """One NamedPathItem of Paths, field header included."""
    content = b"".join(_bytes(number, _operation(node[method])) for method, number in _METHODS if method in node)
    return _bytes(2, _named(path, content + _parameters(9, node.get("parameters") or ())))


def definition(name: str, node: _Node) -> bytes:
    """One NamedSchema of Definitions, field header included."""
    return _bytes(1, _named(name, _schema(node)))


def document(*, title: str, version: str, paths: Iterable[bytes], definitions: Iterable[bytes]) -> bytes:
    """A whole Document of parts made by :func:`path_item` and :func:`definition`."""
    info = _text(1, title) + _text(2, version)
    return b"".join((_text(1, "2.0"), _bytes(2, info), _bytes(8, b"".join(paths)), _bytes(9, b"".join(definitions))))

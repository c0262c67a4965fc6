"""The little of protobuf that an ONNX file needs where the package `onnx` is not installed: append a field, and cut a
graph down to what some of its outputs need.

A message is a row of fields, each a number and a kind, then its content (protobuf.dev, "Encoding"). Numbers of fields
are those of onnx.proto.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5  # kinds of content
GRAPH = 7  # of ModelProto
NODE, OUTPUT = 1, 12  # of GraphProto
READS, MAKES, ATTRIBUTE = 1, 2, 5  # of NodeProto: names of tensors, and attributes
GRAPHS = (6, 11)  # of AttributeProto: bodies of branches and loops
NAME = 1  # of ValueInfoProto


class Field(NamedTuple):
    number: int
    content: memoryview  # without number, kind and length
    whole: memoryview  # with them


def field(number: int, content: bytes) -> bytes:
    """A field that holds bytes."""
    return _varint(number << 3 | BYTES) + _varint(len(content)) + content


def fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message in their order. Raises ValueError for what is none."""
    at = 0
    while at < len(message):
        start = at
        key, at = _read_varint(message, at)
        number, kind = key >> 3, key & 7
        size = {EIGHT: 8, FOUR: 4}.get(kind, 0)
        if kind == BYTES:
            size, at = _read_varint(message, at)
        elif kind == VARINT:
            size = _read_varint(message, at)[1] - at
        elif kind not in (EIGHT, FOUR):
            raise ValueError(f"a field of kind {kind}")
        yield Field(number, message[at : at + size], message[start : at + size])
        at += size


def pruned(model: bytes, outputs: Collection[str]) -> bytes:
    """A ModelProto with these outputs of the graph alone, without the nodes that only others need.

    ONNX Runtime computes every node of a graph, whichever outputs are asked for (its issue 16013).
    """
    parts = fields(memoryview(model))
    return b"".join(
        field(GRAPH, _pruned_graph(part.content, outputs)) if part.number == GRAPH else part.whole for part in parts
    )


def _pruned_graph(graph: memoryview, outputs: Collection[str]) -> bytes:
    kept: list[memoryview] = []
    needed = set(outputs)
    for part in reversed(list(fields(graph))):  # nodes stand behind those that they read from
        if part.number == NODE:
            if needed.isdisjoint(_names(part.content, MAKES)):
                continue
            needed.update(_reads(part.content))
        elif part.number == OUTPUT and needed.isdisjoint(_names(part.content, NAME)):
            continue
        kept.append(part.whole)
    return b"".join(reversed(kept))


def _names(message: memoryview, number: int) -> list[str]:
    return [bytes(part.content).decode() for part in fields(message) if part.number == number]


def _reads(node: memoryview) -> Iterator[str]:
    """Names of the tensors that a node reads, those inside the bodies of branches and loops included."""
    for part in fields(node):
        if part.number == READS:
            yield bytes(part.content).decode()
        elif part.number == ATTRIBUTE:
            for body in (one for one in fields(part.content) if one.number in GRAPHS):
                for one in fields(body.content):
                    if one.number == NODE:
                        yield from _reads(one.content)
                    elif one.number == OUTPUT:
                        yield from _names(one.content, NAME)


def _varint(number: int) -> bytes:
    """7 bits a byte, the lowest first; all bytes but the last have the highest bit."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    """(number, where it ends)"""
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at

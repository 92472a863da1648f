"""A workflow as the cluster has it, read: the same layout, in which every field that this program looks at has its type.

Everybody who reads workflows reads them through `read`; whoever looks at one more field gives it its type here."""

from __future__ import annotations

import base64
import zlib
from typing import Any

from pipeline.clients import reading
from pipeline.clients.reading import EPOCH, MOST_OUTPUT, MOST_TEXT, mapping, moment, text

MOST_NODES = 16 << 20  # bytes of a workflow's nodes, unpacked
MOST_UNREAD = 3  # sentences on what could not be read
PHASES = ("", "Pending", "Running", "Succeeded", "Failed", "Error")
Node = dict[str, Any]


class Workflow(dict[str, Any]):
    """metadata, spec and status. unread: what could not be read, in short sentences."""

    unread: tuple[str, ...] = ()


def read(raw: Any) -> Workflow:
    """Never raises, whatever it is given. What was read already is returned as it is."""
    if isinstance(raw, Workflow):
        return raw
    reader = _Reader()
    given = reader.mapping(raw, "The workflow")
    found = Workflow(
        given,
        metadata=_metadata(reader, reader.mapping(given.get("metadata"), "metadata")),
        spec=_spec(reader, reader.mapping(given.get("spec"), "spec")),
        status=_status(reader, reader.mapping(given.get("status"), "status")),
    )
    found.unread = tuple(dict.fromkeys(reader.unread))[:MOST_UNREAD]
    return found


def _metadata(reader: _Reader, given: dict[str, Any]) -> dict[str, Any]:
    return {
        **given,
        "name": reader.text(given.get("name"), "metadata.name"),
        "uid": reader.text(given.get("uid"), "metadata.uid"),
        "resourceVersion": reader.text(given.get("resourceVersion"), "metadata.resourceVersion"),
        "creationTimestamp": reader.time(given.get("creationTimestamp"), "metadata.creationTimestamp") or EPOCH,
        "labels": reader.texts(given.get("labels"), "metadata.labels"),
        "annotations": reader.texts(given.get("annotations"), "metadata.annotations"),
    }


def _spec(reader: _Reader, given: dict[str, Any]) -> dict[str, Any]:
    shutdown = reader.text(given.get("shutdown"), "spec.shutdown")
    return {**given, "shutdown": shutdown, "arguments": reader.arguments(given.get("arguments"), "spec.arguments")}


def _status(reader: _Reader, given: dict[str, Any]) -> dict[str, Any]:
    stored = reader.mapping(given.get("storedWorkflowTemplateSpec"), "status.storedWorkflowTemplateSpec")
    arguments = reader.arguments(stored.get("arguments"), "status.storedWorkflowTemplateSpec.arguments")
    phase = reader.text(given.get("phase"), "status.phase")
    if phase not in PHASES:
        reader.unread.append(f"the phase {phase[:40]!r} is not known")
    return {
        **given,
        "phase": phase,
        "message": reader.text(given.get("message"), "status.message"),
        "startedAt": reader.time(given.get("startedAt"), "status.startedAt"),
        "finishedAt": reader.time(given.get("finishedAt"), "status.finishedAt"),
        "storedWorkflowTemplateSpec": {**stored, "arguments": arguments},
        "nodes": _nodes(reader, given),
    }


def _nodes(reader: _Reader, status: dict[str, Any]) -> dict[str, Node]:
    """Large workflows keep their nodes packed."""
    nodes = reader.mapping(status.get("nodes"), "status.nodes")
    if not nodes and status.get("compressedNodes"):
        nodes = reader.mapping(unpacked(status["compressedNodes"], reader), "status.compressedNodes")
    return {text(key): _node(reader, text(key), node) for key, node in nodes.items() if reader.mapping(node, "a node")}


def _node(reader: _Reader, key: str, given: dict[str, Any]) -> Node:
    name = reader.text(given.get("name"), "a node's name")
    outputs = reader.mapping(given.get("outputs"), "a node's outputs")
    return {
        **given,
        "id": reader.text(given.get("id"), "a node's id") or key,
        "name": name,
        "displayName": reader.text(given.get("displayName"), "a node's displayName") or name,
        **{
            field: reader.text(given.get(field), f"a node's {field}")
            for field in ("type", "templateName", "phase", "message", "progress", "boundaryID")
        },
        **{field: reader.time(given.get(field), f"a node's {field}") for field in ("startedAt", "finishedAt")},
        "outputs": {**outputs, "parameters": reader.parameters(outputs.get("parameters"), "a node's outputs")},
    }


def unpacked(packed: Any, reader: _Reader) -> Any:
    """Nodes that Argo has compressed: JSON, gzip, base64. Empty where they are not that, or larger than MOST_NODES."""
    try:
        unzip = zlib.decompressobj(wbits=31)
        data = unzip.decompress(base64.b64decode(text(packed, 4 << 20)), MOST_NODES)
        if unzip.unconsumed_tail:
            raise ValueError
        return reading.decoded(data)
    except (ValueError, zlib.error):
        reader.unread.append("status.compressedNodes cannot be unpacked")
        return {}


class _Reader:
    """Values of a type, or an empty one and a sentence in `unread` where something else stands there."""

    def __init__(self) -> None:
        self.unread: list[str] = []

    def mapping(self, value: Any, what: str) -> dict[str, Any]:
        return mapping(self._checked(value, dict, f"{what} is no object"))

    def text(self, value: Any, what: str, most: int = MOST_TEXT) -> str:
        return text(self._checked(value, (str, int, float), f"{what} is no text"), most)

    def time(self, value: Any, what: str) -> str:
        found = self.text(value, what)
        if found and moment(found) is None:
            self.unread.append(f"{what} is no time")
            return ""
        return found

    def texts(self, value: Any, what: str) -> dict[str, str]:
        given = self.mapping(value, what)
        return {text(name): self.text(inner, what, MOST_OUTPUT) for name, inner in given.items()}

    def arguments(self, value: Any, what: str) -> dict[str, Any]:
        given = self.mapping(value, what)
        return {**given, "parameters": self.parameters(given.get("parameters"), what)}

    def parameters(self, value: Any, what: str) -> list[dict[str, Any]]:
        """Each with its name, and its value where it has one."""
        found = []
        for item in self._checked(value, list, f"the parameters of {what} are no list") or []:
            given = self.mapping(item, f"a parameter of {what}")
            name = self.text(given.get("name"), f"a parameter's name in {what}")
            value = given.get("value")
            told = {} if value is None else {"value": self.text(value, f"a parameter's value in {what}", MOST_OUTPUT)}
            others = {key: inner for key, inner in given.items() if key != "value"}
            found += [{**others, **told, "name": name}] if name else []
        return found

    def _checked(self, value: Any, kind: Any, sentence: str) -> Any:
        """A value of that kind; None where there is none or, which is told, one of another."""
        if value is None or (isinstance(value, kind) and not isinstance(value, bool)):
            return value
        self.unread.append(sentence)
        return None

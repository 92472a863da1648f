"""Workflow objects with checked types: `read` returns the same layout, in which every field that this program uses has its type.

All code reads workflows through `read`; a new field gets its type here."""

from __future__ import annotations

import base64
import zlib
from typing import Any

from pipeline.clients import reading
from pipeline.clients.reading import EPOCH, MAX_OUTPUT, MAX_TEXT, mapping, parse_time, text

NAME_PREFIX = "sixview-"  # of a job's workflow; the job id follows
MAX_NODES = 16 << 20  # bytes of status.compressedNodes after decompression
MAX_PARSE_ERRORS = 3  # sentences that are kept
PHASES = ("", "Pending", "Running", "Succeeded", "Failed", "Error")
Node = dict[str, Any]


class Workflow(dict[str, Any]):
    """metadata, spec and status. parse_errors: a sentence for each field of a wrong type."""

    parse_errors: tuple[str, ...] = ()


def read(raw: Any) -> Workflow:
    """The workflow with checked types. Never raises; a Workflow is returned unchanged."""
    if isinstance(raw, Workflow):
        return raw
    reader = _Reader()
    fields = reader.mapping(raw, "The workflow")
    workflow = Workflow(
        fields,
        metadata=_metadata(reader, reader.mapping(fields.get("metadata"), "metadata")),
        spec=_spec(reader, reader.mapping(fields.get("spec"), "spec")),
        status=_status(reader, reader.mapping(fields.get("status"), "status")),
    )
    workflow.parse_errors = tuple(dict.fromkeys(reader.parse_errors))[:MAX_PARSE_ERRORS]
    return workflow


def _metadata(reader: _Reader, fields: dict[str, Any]) -> dict[str, Any]:
    return {
        **fields,
        "name": reader.text(fields.get("name"), "metadata.name"),
        "uid": reader.text(fields.get("uid"), "metadata.uid"),
        "resourceVersion": reader.text(fields.get("resourceVersion"), "metadata.resourceVersion"),
        "creationTimestamp": reader.time(fields.get("creationTimestamp"), "metadata.creationTimestamp") or EPOCH,
        "labels": reader.texts(fields.get("labels"), "metadata.labels"),
        "annotations": reader.texts(fields.get("annotations"), "metadata.annotations"),
    }


def _spec(reader: _Reader, fields: dict[str, Any]) -> dict[str, Any]:
    shutdown = reader.text(fields.get("shutdown"), "spec.shutdown")
    return {**fields, "shutdown": shutdown, "arguments": reader.arguments(fields.get("arguments"), "spec.arguments")}


def _status(reader: _Reader, fields: dict[str, Any]) -> dict[str, Any]:
    stored_spec = reader.mapping(fields.get("storedWorkflowTemplateSpec"), "status.storedWorkflowTemplateSpec")
    arguments = reader.arguments(stored_spec.get("arguments"), "status.storedWorkflowTemplateSpec.arguments")
    phase = reader.text(fields.get("phase"), "status.phase")
    if phase not in PHASES:
        reader.parse_errors.append(f"the phase {phase[:40]!r} is not known")
    return {
        **fields,
        "phase": phase,
        "message": reader.text(fields.get("message"), "status.message"),
        "startedAt": reader.time(fields.get("startedAt"), "status.startedAt"),
        "finishedAt": reader.time(fields.get("finishedAt"), "status.finishedAt"),
        "storedWorkflowTemplateSpec": {**stored_spec, "arguments": arguments},
        "nodes": _nodes(reader, fields),
    }


def _nodes(reader: _Reader, status: dict[str, Any]) -> dict[str, Node]:
    """status.nodes, or status.compressedNodes of a large workflow."""
    nodes = reader.mapping(status.get("nodes"), "status.nodes")
    if not nodes and status.get("compressedNodes"):
        nodes = reader.mapping(decompress_nodes(status["compressedNodes"], reader), "status.compressedNodes")
    return {text(key): _node(reader, text(key), node) for key, node in nodes.items() if reader.mapping(node, "a node")}


def _node(reader: _Reader, key: str, fields: dict[str, Any]) -> Node:
    name = reader.text(fields.get("name"), "a node's name")
    outputs = reader.mapping(fields.get("outputs"), "a node's outputs")
    return {
        **fields,
        "id": reader.text(fields.get("id"), "a node's id") or key,
        "name": name,
        "displayName": reader.text(fields.get("displayName"), "a node's displayName") or name,
        **{
            field: reader.text(fields.get(field), f"a node's {field}")
            for field in ("type", "templateName", "phase", "message", "progress", "boundaryID")
        },
        **{field: reader.time(fields.get(field), f"a node's {field}") for field in ("startedAt", "finishedAt")},
        "outputs": {**outputs, "parameters": reader.parameters(outputs.get("parameters"), "a node's outputs")},
    }


def decompress_nodes(packed: Any, reader: _Reader) -> Any:
    """status.compressedNodes decoded: base64, gzip, JSON. {} and a parse error where it is something else or larger than
    MAX_NODES."""
    try:
        unzip = zlib.decompressobj(wbits=31)
        data = unzip.decompress(base64.b64decode(text(packed, 4 << 20)), MAX_NODES)
        if unzip.unconsumed_tail:
            raise ValueError
        return reading.decoded(data)
    except (ValueError, zlib.error):
        reader.parse_errors.append("status.compressedNodes cannot be unpacked")
        return {}


class _Reader:
    """Returns values of the wanted type, or an empty one and a sentence in `parse_errors`."""

    def __init__(self) -> None:
        self.parse_errors: list[str] = []

    def mapping(self, value: Any, what: str) -> dict[str, Any]:
        return mapping(self._typed(value, dict, f"{what} is no object"))

    def text(self, value: Any, what: str, limit: int = MAX_TEXT) -> str:
        return text(self._typed(value, (str, int, float), f"{what} is no text"), limit)

    def time(self, value: Any, what: str) -> str:
        string = self.text(value, what)
        if string and parse_time(string) is None:
            self.parse_errors.append(f"{what} is no time")
            return ""
        return string

    def texts(self, value: Any, what: str) -> dict[str, str]:
        fields = self.mapping(value, what)
        return {text(name): self.text(item, what, MAX_OUTPUT) for name, item in fields.items()}

    def arguments(self, value: Any, what: str) -> dict[str, Any]:
        fields = self.mapping(value, what)
        return {**fields, "parameters": self.parameters(fields.get("parameters"), what)}

    def parameters(self, value: Any, what: str) -> list[dict[str, Any]]:
        """Argo parameters with a text name and, where present, a text value."""
        parameters = []
        for item in self._typed(value, list, f"the parameters of {what} are no list") or []:
            fields = self.mapping(item, f"a parameter of {what}")
            name = self.text(fields.get("name"), f"a parameter's name in {what}")
            value = fields.get("value")
            value_field = (
                {} if value is None else {"value": self.text(value, f"a parameter's value in {what}", MAX_OUTPUT)}
            )
            other_fields = {key: inner for key, inner in fields.items() if key != "value"}
            parameters += [{**other_fields, **value_field, "name": name}] if name else []
        return parameters

    def _typed(self, value: Any, kind: Any, sentence: str) -> Any:
        """The value if it has that type; None where it is missing or, with a parse error, of another type."""
        if value is None or (isinstance(value, kind) and not isinstance(value, bool)):
            return value
        self.parse_errors.append(sentence)
        return None

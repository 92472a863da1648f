"""Argo's UI: what the argo-server pod returns to its pages."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.jobs.nodes import step_nodes
from steps.runtime.contract import DEVICES, MODELS
from tests.cluster.client import address, read_key
from tests.cluster.node import kubectl
from tests.cluster.places import NAMESPACE

Succeeded = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def server(cluster: None) -> Callable[[str], tuple[bytes, dict[str, str]]]:
    """server("/api/...") -> body and headers, for somebody who may see everything."""
    for command in (
        "-n argo create serviceaccount viewer",
        "create clusterrolebinding viewer --clusterrole=cluster-admin --serviceaccount=argo:viewer",
    ):
        kubectl(*command.split(), check=False)
    token = kubectl("-n", "argo", "create", "token", "viewer").stdout.strip()
    base = f"https://{address('argo-server', 2746, 'argo')}"
    context = ssl._create_unverified_context()  # its certificate is of its own making

    def get(path: str) -> tuple[bytes, dict[str, str]]:
        request = urllib.request.Request(base + path, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, context=context, timeout=60) as response:
            return response.read(), {name.lower(): value for name, value in response.headers.items()}

    return get


Server = Callable[[str], tuple[bytes, dict[str, str]]]


def test_the_report_opens_in_the_browser(server: Server, succeeded: Succeeded) -> None:
    wf = succeeded("reconviagen")
    name = wf["metadata"]["name"]
    node = next(n for n in step_nodes(wf) if n["templateName"] == "package")
    body, headers = server(f"/artifact-files/{NAMESPACE}/workflows/{name}/{node['id']}/outputs/report")
    assert headers["content-type"].startswith("text/html")
    assert body == read_key(name, "report.html")
    assert b"<html" in body[:200]


def test_the_submit_form_offers_choices_and_explains_them(server: Server) -> None:
    template = json.loads(server(f"/api/v1/workflow-templates/{NAMESPACE}/sixview")[0])
    parameters = {p["name"]: p for p in template["spec"]["arguments"]["parameters"]}
    assert parameters["model"]["enum"] == [*MODELS, "both"]
    assert parameters["device"]["enum"] == list(DEVICES)
    assert all(p["description"] for p in parameters.values())
    assert [name for name, p in parameters.items() if "value" not in p] == ["input"]


def test_the_list_shows_labels_and_the_node_its_outputs(server: Server, succeeded: Succeeded) -> None:
    name = succeeded("both")["metadata"]["name"]
    listed = json.loads(server(f"/api/v1/workflows/{NAMESPACE}?listOptions.labelSelector=sixview.dev/model=both")[0])[
        "items"
    ]
    listed_wf = next(w for w in listed if w["metadata"]["name"] == name)
    assert listed_wf["metadata"]["labels"]["sixview.dev/engine"] == "fusion.nvdiffrec"
    wf = json.loads(server(f"/api/v1/workflows/{NAMESPACE}/{name}")[0])
    quality = next(n for n in wf["status"]["nodes"].values() if n.get("templateName") == "nvdiffrec-quality")
    outputs = {p["name"]: p["value"] for p in quality["outputs"]["parameters"]}
    assert float(outputs["psnr"]) > 20


def test_argo_server_refuses_requests_without_a_token(cluster: None) -> None:
    request = urllib.request.Request(f"https://{address('argo-server', 2746, 'argo')}/api/v1/workflows/{NAMESPACE}")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request, context=ssl._create_unverified_context(), timeout=60)

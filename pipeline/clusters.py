"""Workflows over the wire: the API server (kubernetes), or an Argo Server (argo-workflows) where only that can be reached.

Both raise StepErrors in plain words: CLUSTER_UNAVAILABLE where nobody answers or access is refused."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from pipeline import retries
from steps.errors import ClusterUnavailable, ValidationFailed

Workflow = dict[str, Any]
OURS = "app.kubernetes.io/name=sixview"
_KIND = ("argoproj.io", "v1alpha1")


class Conflict(Exception):
    """There is a workflow of this name already."""


class Cluster(Protocol):
    """What jobs need of either."""

    namespace: str

    def create(self, workflow: Workflow) -> Workflow: ...
    def get(self, name: str) -> Workflow | None: ...
    def list(self, selector: str = OURS) -> list[Workflow]: ...
    def stop(self, name: str, annotations: dict[str, str]) -> Workflow | None: ...
    def retry(self, name: str) -> None: ...
    def log(self, workflow: str, pod: str, follow: bool) -> Iterator[str]: ...
    def template(self, name: str) -> dict[str, Any] | None: ...


def connect(namespace: str, server: str = "", token: str = "", insecure: bool = False) -> Cluster:
    """server: an Argo Server, `https://host:2746`; empty: the kubeconfig or, inside a pod, the pod's own account."""
    try:
        return ArgoServer(namespace, server, token, insecure) if server else Kubernetes(namespace)
    except ImportError as error:
        raise ClusterUnavailable(
            f"{error.name} is not installed.", "Install the extra: pip install 'sixview[cluster]'."
        ) from None


class Kubernetes:
    """Against the API server, with the rights of the kubeconfig or of the pod's account."""

    def __init__(self, namespace: str) -> None:
        from kubernetes import client, config

        try:
            in_a_pod = "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ
            config.load_incluster_config() if in_a_pod else config.load_kube_config()  # type: ignore[no-untyped-call]
        except (config.ConfigException, OSError) as error:
            raise ClusterUnavailable(f"There is no way to the cluster: {error}") from None
        self.namespace = namespace
        self.custom = client.CustomObjectsApi()
        self.api: Any = self.custom.api_client
        self.api.configuration.retries = 2

    @functools.cached_property
    def core(self) -> Any:
        """Pods and nodes. Made when it is asked for: the client's classes for it take 80 MiB."""
        from kubernetes import client

        return client.CoreV1Api()

    def create(self, workflow: Workflow) -> Workflow:
        return self._call(self.custom.create_namespaced_custom_object, "workflows", workflow)

    def get(self, name: str) -> Workflow | None:
        return self._call(self.custom.get_namespaced_custom_object, "workflows", name)

    def list(self, selector: str = OURS) -> list[Workflow]:
        found = self._call(self.custom.list_namespaced_custom_object, "workflows", label_selector=selector)
        return list((found or {}).get("items", []))

    def stop(self, name: str, annotations: dict[str, str]) -> Workflow | None:
        """As `argo stop`: the exit handler still runs. Returns the workflow as it is now."""
        return self.patch(name, {"metadata": {"annotations": annotations}, "spec": {"shutdown": "Stop"}})

    def patch(self, name: str, patch: dict[str, Any]) -> Workflow | None:
        return self._call(self.custom.patch_namespaced_custom_object, "workflows", name, patch)

    def retry(self, name: str) -> None:
        """As `argo retry`: what failed is forgotten, and its pods are deleted, so that the controller makes them anew."""
        workflow = self.get(name)
        if workflow is None:
            return
        again, nodes = retries.restarted(workflow)
        for node in nodes:
            with contextlib.suppress(ClusterUnavailable):
                self._call(self.core.delete_namespaced_pod, node, ours=False)
        self._call(self.custom.replace_namespaced_custom_object, "workflows", name, again)

    def log(self, workflow: str, pod: str, follow: bool) -> Iterator[str]:
        answer = self._call(
            self.core.read_namespaced_pod_log, pod, ours=False, container="main", follow=follow, _preload_content=False
        )
        for line in answer or ():
            yield line.decode("utf-8", "replace").rstrip("\n")

    def template(self, name: str) -> dict[str, Any] | None:
        return self._call(self.custom.get_namespaced_custom_object, "workflowtemplates", name)

    def watch(self, selector: str, version: str, seconds: int) -> Iterator[tuple[str, Workflow]]:
        """Changes since a resourceVersion, for some seconds: ("ADDED" | "MODIFIED" | "DELETED" | "ERROR", the workflow)."""
        from kubernetes import watch

        stream: Any = watch.Watch().stream  # type: ignore[no-untyped-call]
        look = self.custom.list_namespaced_custom_object
        options = {"label_selector": selector, "resource_version": version, "timeout_seconds": seconds}
        options["_request_timeout"] = (5, seconds + 30)  # a connection that died without a word
        for event in stream(look, *_KIND, self.namespace, "workflows", **options):
            yield event["type"], event["object"]

    def listing(self, selector: str) -> tuple[Sequence[Workflow], str]:
        """The workflows, and the resourceVersion from which to watch on."""
        found = self._call(self.custom.list_namespaced_custom_object, "workflows", label_selector=selector) or {}
        return list(found.get("items", [])), str(found.get("metadata", {}).get("resourceVersion", ""))

    def _call(self, function: Any, *arguments: Any, ours: bool = True, **more: Any) -> Any:
        """One request. None where there is nothing of that name."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        place = (*_KIND, self.namespace, *arguments) if ours else (*arguments, self.namespace)
        try:
            return function(*place, **{"_request_timeout": (5, 60), **more})
        except ApiException as error:
            return _explained(error.status, error.body, error.reason)
        except HTTPError as error:
            raise ClusterUnavailable(f"The API server does not answer: {error}") from None


class ArgoServer:
    """Against an Argo Server, for those who may not talk to the API server itself. Its generated types know less than it sends:
    plain JSON is read."""

    def __init__(self, namespace: str, server: str, token: str, insecure: bool) -> None:
        import argo_workflows
        import urllib3
        from argo_workflows.api import workflow_service_api, workflow_template_service_api

        configuration = argo_workflows.Configuration(host=server.rstrip("/"))
        configuration.verify_ssl = not insecure
        if insecure:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        if token:
            configuration.api_key["BearerToken"] = token.removeprefix("Bearer ")
            configuration.api_key_prefix["BearerToken"] = "Bearer"
        api = argo_workflows.ApiClient(configuration)
        self.namespace = namespace
        self.workflows = workflow_service_api.WorkflowServiceApi(api)
        self.templates = workflow_template_service_api.WorkflowTemplateServiceApi(api)

    def create(self, workflow: Workflow) -> Workflow:
        from argo_workflows.model.io_argoproj_workflow_v1alpha1_workflow_create_request import (
            IoArgoprojWorkflowV1alpha1WorkflowCreateRequest as Request,
        )

        return self._json(self.workflows.create_workflow, Request(workflow=workflow, _check_type=False))

    def get(self, name: str) -> Workflow | None:
        return self._json(self.workflows.get_workflow, name)

    def list(self, selector: str = OURS) -> list[Workflow]:
        found = self._json(self.workflows.list_workflows, list_options_label_selector=selector)
        return list((found or {}).get("items") or [])

    def stop(self, name: str, annotations: dict[str, str]) -> Workflow | None:
        from argo_workflows.model.io_argoproj_workflow_v1alpha1_workflow_stop_request import (
            IoArgoprojWorkflowV1alpha1WorkflowStopRequest as Request,
        )

        return self._json(self.workflows.stop_workflow, name, Request())

    def retry(self, name: str) -> None:
        from argo_workflows.model.io_argoproj_workflow_v1alpha1_workflow_retry_request import (
            IoArgoprojWorkflowV1alpha1WorkflowRetryRequest as Request,
        )

        self._json(self.workflows.retry_workflow, name, Request())

    def log(self, workflow: str, pod: str, follow: bool) -> Iterator[str]:
        answer = self._call(
            self.workflows.workflow_logs,
            workflow,
            pod_name=pod,
            log_options_container="main",
            log_options_follow=follow,
        )
        for line in answer or ():
            content = json.loads(line).get("result", {}).get("content")
            if content is not None:
                yield str(content)

    def template(self, name: str) -> dict[str, Any] | None:
        return self._json(self.templates.get_workflow_template, name)

    def _json(self, function: Any, *arguments: Any, **more: Any) -> Any:
        answer = self._call(function, *arguments, **more)
        return None if answer is None else json.loads(answer.data)

    def _call(self, function: Any, *arguments: Any, **more: Any) -> Any:
        from argo_workflows import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return function(self.namespace, *arguments, _preload_content=False, _check_return_type=False, **more)
        except ApiException as error:
            return _explained(error.status, error.body, error.reason)
        except HTTPError as error:
            raise ClusterUnavailable(f"The Argo Server does not answer: {error}") from None


def _explained(status: int | None, body: Any, reason: Any) -> None:
    """What a refusal means to the user. 404 means: nothing there."""
    try:
        message = json.loads(body or "{}").get("message") or str(reason)
    except (ValueError, AttributeError):
        message = str(reason)
    if status == 404:
        return
    if status == 409:
        raise Conflict(message)
    if status in (400, 422):
        raise ValidationFailed(f"The cluster refused the job: {message}.", "Correct the parameters and submit again.")
    if status in (401, 403):
        raise ClusterUnavailable(
            f"The cluster refused access: {message}",
            "Ask its administrators for the rights; `sixview doctor` lists those that are needed.",
        )
    raise ClusterUnavailable(f"The cluster could not answer: {message}")

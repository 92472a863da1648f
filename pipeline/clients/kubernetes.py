"""Workflows over the wire: the API server (kubernetes), or an Argo Server (argo-workflows) where only that can be reached.

Both raise StepErrors in plain words: CLUSTER_UNAVAILABLE where nobody answers or access is refused."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.clients import reading, retries
from pipeline.clients.reading import mapping, sequence, text
from steps.runtime.errors import ClusterUnavailable, ValidationFailed

Workflow = dict[str, Any]
OURS = "app.kubernetes.io/name=sixview"
COMPLETED = "workflows.argoproj.io/completed"  # label; the controller sets it when a workflow has ended
FINISHED, UNFINISHED = f"{OURS},{COMPLETED}=true", f"{OURS},{COMPLETED}!=true"
# A page is all of a listing that is in memory. A finished workflow has about 130 kB, its metadata about 10
MOST_WHOLE, MOST_HEADS = 20, 200
HEADS = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
FIELDS = "metadata,items.metadata.{}".format(
    ",items.metadata.".join(("name", "uid", "creationTimestamp", "resourceVersion", "labels", "annotations"))
)
_KIND = ("argoproj.io", "v1alpha1")


class Conflict(Exception):
    """There is a workflow of this name already."""


class Expired(Exception):
    """The cluster no longer knows the time from which a listing or a watch was to go on: it has to begin anew."""


@dataclass(frozen=True)
class Page:
    """Part of a listing. version: of the whole listing, from which to watch on."""

    items: list[Workflow]
    version: str
    following: str = ""  # the token of the next page


class Cluster(Protocol):
    """What jobs need of either."""

    namespace: str

    def create(self, workflow: Workflow) -> Workflow: ...
    def get(self, name: str) -> Workflow | None: ...
    def pages(self, selector: str = OURS, whole: bool = True) -> Iterator[Page]: ...
    def list(self, selector: str = OURS) -> list[Workflow]: ...
    def stop(self, name: str, annotations: dict[str, str]) -> Workflow | None: ...
    def retry(self, name: str, anew: bool = False) -> None: ...
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
        """Pods, nodes and so on. Their types alone take 80 MiB of memory: whoever can do without them does."""
        from kubernetes import client

        return client.CoreV1Api(self.api)

    def nodes(self) -> list[dict[str, Any]]:
        """Every node, as JSON. Raises ClusterUnavailable where they may not be listed."""
        configuration = self.api.configuration
        token = mapping(configuration.auth_settings().get("BearerToken")).get("value")
        headers = {"Authorization": token} if token else {}
        ask = functools.partial(self.api.rest_client.pool_manager.request, headers=headers, timeout=5, retries=2)
        found = self._json(lambda *_, **__: ask("GET", f"{configuration.host}/api/v1/nodes"))
        return [mapping(node) for node in sequence(mapping(found).get("items"))]

    def create(self, workflow: Workflow) -> Workflow:
        return mapping(self._json(self.custom.create_namespaced_custom_object, "workflows", workflow))

    def get(self, name: str) -> Workflow | None:
        return self._json(self.custom.get_namespaced_custom_object, "workflows", name)

    def pages(self, selector: str = OURS, whole: bool = True) -> Iterator[Page]:
        """Every workflow, page by page. whole: or its metadata alone. Raises Expired where it took minutes to read on."""
        more: dict[str, Any] = {"limit": MOST_WHOLE} if whole else {"limit": MOST_HEADS, "_headers": {"Accept": HEADS}}
        yield from _paged(
            lambda token: self._json(
                self.custom.list_namespaced_custom_object,
                "workflows",
                label_selector=selector,
                **more,
                **({"_continue": token} if token else {}),
            )
        )

    def list(self, selector: str = OURS) -> list[Workflow]:
        return [workflow for page in self.pages(selector) for workflow in page.items]

    def stop(self, name: str, annotations: dict[str, str]) -> Workflow | None:
        """As `argo stop`: the exit handler still runs. A suspended one is resumed with it: Argo would never look at the order.
        Returns the workflow as it is now."""
        order = {"shutdown": "Stop", "suspend": None}
        return self.patch(name, {"metadata": {"annotations": annotations}, "spec": order})

    def patch(self, name: str, patch: dict[str, Any]) -> Workflow | None:
        return self._json(self.custom.patch_namespaced_custom_object, "workflows", name, patch)

    def retry(self, name: str, anew: bool = False) -> None:
        """As `argo retry`: what failed is forgotten, and its pods are deleted, so that the controller makes them anew. anew: from
        the first step."""
        workflow = self.get(name)
        if workflow is None:
            return
        again, nodes = retries.restarted(workflow, anew)
        for node in nodes:
            with contextlib.suppress(ClusterUnavailable):
                self._call(self.core.delete_namespaced_pod, node, ours=False)
        self._json(self.custom.replace_namespaced_custom_object, "workflows", name, again)

    def log(self, workflow: str, pod: str, follow: bool) -> Iterator[str]:
        answer = self._raw(self.core.read_namespaced_pod_log, pod, ours=False, container="main", follow=follow)
        for line in answer or ():
            yield line.decode("utf-8", "replace").rstrip("\n")

    def template(self, name: str) -> dict[str, Any] | None:
        return self._json(self.custom.get_namespaced_custom_object, "workflowtemplates", name)

    def watch(self, selector: str, version: str, seconds: int) -> Iterator[tuple[str, Workflow]]:
        """Changes since a resourceVersion, for some seconds: "ADDED", "MODIFIED", "DELETED" or "BOOKMARK", and the workflow.
        Raises Expired, at once or on the way, where the cluster does not know that version any more."""
        answer = self._raw(
            self.custom.list_namespaced_custom_object,
            "workflows",
            label_selector=selector,
            resource_version=version,
            timeout_seconds=seconds,
            allow_watch_bookmarks=True,
            watch=True,
            _request_timeout=(5, seconds + 30),  # a connection that died without a word
        )
        if answer is None:
            raise ClusterUnavailable("The cluster knows no workflows.", "Install Argo Workflows 3.7.")
        return _events(answer)

    def _json(self, function: Any, *arguments: Any, **more: Any) -> Any:
        """The answer's JSON, however deep it is nested: the client's own decoder would raise for the whole of it."""
        answer = self._raw(function, *arguments, **more)
        return None if answer is None else _decoded(answer.data)

    def _raw(self, function: Any, *arguments: Any, **more: Any) -> Any:
        """The answer as it arrives. None where there is nothing of that name."""
        answer = self._call(function, *arguments, _preload_content=False, **more)
        if answer is not None and answer.status >= 400:
            return _explained(answer.status, answer.data, answer.reason)
        return answer

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


def _events(answer: Any) -> Iterator[tuple[str, Workflow]]:
    from kubernetes.watch.watch import iter_resp_lines
    from urllib3.exceptions import HTTPError

    with contextlib.closing(answer):
        try:
            for line in iter_resp_lines(answer):  # type: ignore[no-untyped-call]
                event = mapping(_decoded(line)) if line else {}
                if event.get("type") == "ERROR":
                    status = mapping(event.get("object"))
                    _explained(reading.integer(status.get("code"), 500), line, status.get("reason"))
                    return
                yield text(event.get("type")), mapping(event.get("object"))
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

    def pages(self, selector: str = OURS, whole: bool = True) -> Iterator[Page]:
        more = (
            {"list_options_limit": str(MOST_WHOLE)}
            if whole
            else {"list_options_limit": str(MOST_HEADS), "fields": FIELDS}
        )
        yield from _paged(
            lambda token: self._json(
                self.workflows.list_workflows,
                list_options_label_selector=selector,
                **more,
                **({"list_options_continue": token} if token else {}),
            )
        )

    def list(self, selector: str = OURS) -> list[Workflow]:
        return [workflow for page in self.pages(selector) for workflow in page.items]

    def stop(self, name: str, annotations: dict[str, str]) -> Workflow | None:
        from argo_workflows.model.io_argoproj_workflow_v1alpha1_workflow_resume_request import (
            IoArgoprojWorkflowV1alpha1WorkflowResumeRequest as Resume,
        )
        from argo_workflows.model.io_argoproj_workflow_v1alpha1_workflow_stop_request import (
            IoArgoprojWorkflowV1alpha1WorkflowStopRequest as Request,
        )

        stopped = self._json(self.workflows.stop_workflow, name, Request())
        if mapping(mapping(stopped).get("spec")).get("suspend"):  # Argo would never look at the order
            return self._json(self.workflows.resume_workflow, name, Resume())
        return stopped

    def retry(self, name: str, anew: bool = False) -> None:
        """By Argo's own retry, which goes on neither after a stop ("couldn't find parent node") nor after a missed gate, whose
        package has succeeded."""
        workflow = self.get(name) or {}
        nodes = (workflow.get("status", {}).get("nodes") or {}).values()
        packed = any(n["name"] == f"{name}.package" and n["phase"] == "Succeeded" for n in nodes)
        if anew or workflow.get("spec", {}).get("shutdown") or packed:
            raise ValidationFailed(
                "Argo's own retry cannot go on with this job.",
                "Run `sixview retry` without --argo-server, or submit the set again.",
            )
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
            content = mapping(mapping(_decoded(line)).get("result")).get("content")
            if content is not None:
                yield text(content, len(line))

    def template(self, name: str) -> dict[str, Any] | None:
        return self._json(self.templates.get_workflow_template, name)

    def _json(self, function: Any, *arguments: Any, **more: Any) -> Any:
        answer = self._call(function, *arguments, **more)
        return None if answer is None else _decoded(answer.data)

    def _call(self, function: Any, *arguments: Any, **more: Any) -> Any:
        from argo_workflows import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return function(self.namespace, *arguments, _preload_content=False, _check_return_type=False, **more)
        except ApiException as error:
            return _explained(error.status, error.body, error.reason)
        except HTTPError as error:
            raise ClusterUnavailable(f"The Argo Server does not answer: {error}") from None


def _paged(ask: Callable[[str], Any]) -> Iterator[Page]:
    """Every page of a listing. ask: gives what the cluster answers, by the token of the page; empty: the first."""
    token = ""
    while True:
        found = mapping(ask(token))
        about = mapping(found.get("metadata"))
        page = Page(
            [mapping(item) for item in sequence(found.get("items"))],
            text(about.get("resourceVersion")),
            text(about.get("continue")),
        )
        yield page
        if page.following in ("", token):
            return
        token = page.following


def _decoded(data: Any) -> Any:
    try:
        return reading.decoded(data)
    except ValueError as error:
        raise ClusterUnavailable(f"The cluster's answer cannot be read: {error}") from None


def _explained(status: int | None, body: Any, reason: Any) -> None:
    """What a refusal means to the user. 404 means: nothing there."""
    try:
        found = mapping(reading.decoded(body or "{}"))
    except ValueError:
        found = {}
    message = text(mapping(found.get("object")).get("message")) or text(found.get("message")) or str(reason)
    if status == 404:
        return
    if status == 410:
        raise Expired(message)
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

"""Two clients for Workflow objects: `Kubernetes` uses the API server, `ArgoServer` an Argo Server where only that is reachable.

Both raise StepErrors: ClusterUnavailable for connection errors, 401, 403 and 5xx, ValidationFailed for 400 and 422; besides
Conflict (409) and Expired (410). 404 gives None."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.clients import reading, retries
from pipeline.clients.reading import mapping, sequence, text
from steps.runtime.errors import ClusterUnavailable, ValidationFailed

Workflow = dict[str, Any]
SELECTOR = "app.kubernetes.io/name=sixview"
COMPLETED_LABEL = "workflows.argoproj.io/completed"  # set to "true" by Argo's controller when a workflow has ended
FINISHED, UNFINISHED = f"{SELECTOR},{COMPLETED_LABEL}=true", f"{SELECTOR},{COMPLETED_LABEL}!=true"
# Objects per page; one page is in memory at a time. A finished workflow has about 130 kB, its metadata about 10 kB
PAGE_LIMIT, METADATA_PAGE_LIMIT = 20, 200
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
METADATA_FIELDS = "metadata,items.metadata.{}".format(
    ",items.metadata.".join(("name", "uid", "creationTimestamp", "resourceVersion", "labels", "annotations"))
)
_GROUP_VERSION = ("argoproj.io", "v1alpha1")


class Conflict(Exception):
    """409: a workflow of this name exists."""


class Expired(Exception):
    """410 Gone: the resourceVersion or continue token is too old; list again from the start."""


@dataclass(frozen=True)
class Page:
    """One page of a list response. resource_version: of the list, to start a watch from; continue_token: empty on the last."""

    items: list[Workflow]
    resource_version: str
    continue_token: str = ""


class Cluster(Protocol):
    """The operations of `jobs` on a namespace; `Kubernetes` and `ArgoServer` implement it."""

    namespace: str

    def create(self, workflow: Workflow) -> Workflow: ...
    def get(self, name: str) -> Workflow | None: ...
    def pages(self, selector: str = SELECTOR, full: bool = True) -> Iterator[Page]: ...
    def list(self, selector: str = SELECTOR) -> list[Workflow]: ...
    def stop(self, name: str, annotations: dict[str, str]) -> Workflow | None: ...
    def retry(self, name: str, from_start: bool = False) -> None: ...
    def log(self, workflow: str, pod: str, follow: bool) -> Iterator[str]: ...
    def template(self, name: str) -> dict[str, Any] | None: ...


def connect(namespace: str, server: str = "", insecure: bool = False) -> Cluster:
    """A client for the namespace. server: URL of an Argo Server, `https://host:2746`, its token in ARGO_TOKEN; "": the API server
    of the kubeconfig or, in a pod, of its service account. Raises ClusterUnavailable."""
    try:
        if not server:
            return Kubernetes(namespace)
        from pipeline.clients import environment

        return ArgoServer(namespace, server, environment.cluster().argo_token.get_secret_value(), insecure)
    except ImportError as error:
        raise ClusterUnavailable(
            f"{error.name} is not installed.", "Install the extra: pip install 'sixview[cluster]'."
        ) from None


class Kubernetes:
    """Client of the API server, with the credentials of the kubeconfig or of the pod's service account."""

    def __init__(self, namespace: str) -> None:
        from kubernetes import client, config

        from pipeline.clients import environment

        variables = environment.cluster()
        try:
            in_cluster = variables.kubernetes_service_host is not None and variables.kubeconfig is None
            config.load_incluster_config() if in_cluster else config.load_kube_config()  # type: ignore[no-untyped-call]
        except (config.ConfigException, OSError) as error:
            raise ClusterUnavailable(f"There is no way to the cluster: {error}") from None
        self.namespace = namespace
        self.custom = client.CustomObjectsApi()
        self.api: Any = self.custom.api_client
        self.api.configuration.retries = 2

    @functools.cached_property
    def core(self) -> Any:
        """CoreV1Api, created on first use: its model classes take 80 MiB of memory."""
        from kubernetes import client

        return client.CoreV1Api(self.api)

    def nodes(self) -> list[dict[str, Any]]:
        """All Node objects as JSON, without loading CoreV1Api. Raises ClusterUnavailable, also for 403."""
        configuration = self.api.configuration
        token = mapping(configuration.auth_settings().get("BearerToken")).get("value")
        headers = {"Authorization": token} if token else {}
        request = functools.partial(self.api.rest_client.pool_manager.request, headers=headers, timeout=5, retries=2)
        node_list = self._json(lambda *_, **__: request("GET", f"{configuration.host}/api/v1/nodes"))
        return [mapping(node) for node in sequence(mapping(node_list).get("items"))]

    def create(self, workflow: Workflow) -> Workflow:
        return mapping(self._json(self.custom.create_namespaced_custom_object, "workflows", workflow))

    def get(self, name: str) -> Workflow | None:
        return self._json(self.custom.get_namespaced_custom_object, "workflows", name)

    def pages(self, selector: str = SELECTOR, full: bool = True) -> Iterator[Page]:
        """Workflows with these labels, page by page. full: whole objects, else their metadata (PartialObjectMetadata). Raises
        Expired where the continue token has expired between two pages."""
        options: dict[str, Any] = (
            {"limit": PAGE_LIMIT} if full else {"limit": METADATA_PAGE_LIMIT, "_headers": {"Accept": METADATA_ONLY}}
        )
        yield from _pages(
            lambda token: self._json(
                self.custom.list_namespaced_custom_object,
                "workflows",
                label_selector=selector,
                **options,
                **({"_continue": token} if token else {}),
            )
        )

    def list(self, selector: str = SELECTOR) -> list[Workflow]:
        return [workflow for page in self.pages(selector) for workflow in page.items]

    def stop(self, name: str, annotations: dict[str, str]) -> Workflow | None:
        """Sets spec.shutdown to Stop, as `argo stop`: the exit handler still runs. Also clears spec.suspend, since Argo ignores a
        shutdown of a suspended workflow. Returns the patched workflow."""
        spec_patch = {"shutdown": "Stop", "suspend": None}
        return self.patch(name, {"metadata": {"annotations": annotations}, "spec": spec_patch})

    def patch(self, name: str, patch: dict[str, Any]) -> Workflow | None:
        return self._json(self.custom.patch_namespaced_custom_object, "workflows", name, patch)

    def retry(self, name: str, from_start: bool = False) -> None:
        """As `argo retry`: removes failed nodes from the status and deletes their pods, so that the controller creates them
        again. from_start: all nodes."""
        workflow = self.get(name)
        if workflow is None:
            return
        restarted, pods = retries.restarted(workflow, from_start)
        for pod in pods:
            with contextlib.suppress(ClusterUnavailable):
                self._call(self.core.delete_namespaced_pod, pod, is_custom_object=False)
        self._json(self.custom.replace_namespaced_custom_object, "workflows", name, restarted)

    def log(self, workflow: str, pod: str, follow: bool) -> Iterator[str]:
        response = self._raw(
            self.core.read_namespaced_pod_log, pod, is_custom_object=False, container="main", follow=follow
        )
        for line in response or ():
            yield line.decode("utf-8", "replace").rstrip("\n")

    def template(self, name: str) -> dict[str, Any] | None:
        return self._json(self.custom.get_namespaced_custom_object, "workflowtemplates", name)

    def watch(self, selector: str, resource_version: str, seconds: int) -> Iterator[tuple[str, Workflow]]:
        """Watch events since a resourceVersion, for `seconds`: type (ADDED, MODIFIED, DELETED, BOOKMARK) and workflow. Raises
        Expired, at once or while iterating, where the API server no longer has that version."""
        response = self._raw(
            self.custom.list_namespaced_custom_object,
            "workflows",
            label_selector=selector,
            resource_version=resource_version,
            timeout_seconds=seconds,
            allow_watch_bookmarks=True,
            watch=True,
            _request_timeout=(5, seconds + 30),  # ends a connection that was lost without a FIN
        )
        if response is None:
            raise ClusterUnavailable("The cluster knows no workflows.", "Install Argo Workflows 3.7.")
        return _events(response)

    def _json(self, function: Any, *arguments: Any, **options: Any) -> Any:
        """The decoded response; the client's own decoder raises RecursionError for one deeply nested object of a list."""
        response = self._raw(function, *arguments, **options)
        return None if response is None else _decoded(response.data)

    def _raw(self, function: Any, *arguments: Any, **options: Any) -> Any:
        """The undecoded response. None for 404."""
        response = self._call(function, *arguments, _preload_content=False, **options)
        if response is not None and response.status >= 400:
            return _raise_for_status(response.status, response.data, response.reason)
        return response

    def _call(self, function: Any, *arguments: Any, is_custom_object: bool = True, **options: Any) -> Any:
        """One request; None for 404. is_custom_object: prepend group, version and namespace to the arguments."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        path = (*_GROUP_VERSION, self.namespace, *arguments) if is_custom_object else (*arguments, self.namespace)
        try:
            return function(*path, **{"_request_timeout": (5, 60), **options})
        except ApiException as error:
            return _raise_for_status(error.status, error.body, error.reason)
        except HTTPError as error:
            raise ClusterUnavailable(f"The API server does not answer: {error}") from None


def _events(response: Any) -> Iterator[tuple[str, Workflow]]:
    from kubernetes.watch.watch import iter_resp_lines
    from urllib3.exceptions import HTTPError

    with contextlib.closing(response):
        try:
            for line in iter_resp_lines(response):  # type: ignore[no-untyped-call]
                event = mapping(_decoded(line)) if line else {}
                if event.get("type") == "ERROR":
                    status = mapping(event.get("object"))
                    _raise_for_status(reading.integer(status.get("code"), 500), line, status.get("reason"))
                    return
                yield text(event.get("type")), mapping(event.get("object"))
        except HTTPError as error:
            raise ClusterUnavailable(f"The API server does not answer: {error}") from None


class ArgoServer:
    """Client of an Argo Server, for users without access to the API server. Responses are decoded as plain JSON: the generated
    model classes lack fields that the server sends."""

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

    def pages(self, selector: str = SELECTOR, full: bool = True) -> Iterator[Page]:
        options = (
            {"list_options_limit": str(PAGE_LIMIT)}
            if full
            else {"list_options_limit": str(METADATA_PAGE_LIMIT), "fields": METADATA_FIELDS}
        )
        yield from _pages(
            lambda token: self._json(
                self.workflows.list_workflows,
                list_options_label_selector=selector,
                **options,
                **({"list_options_continue": token} if token else {}),
            )
        )

    def list(self, selector: str = SELECTOR) -> list[Workflow]:
        return [workflow for page in self.pages(selector) for workflow in page.items]

    def stop(self, name: str, annotations: dict[str, str]) -> Workflow | None:
        from argo_workflows.model.io_argoproj_workflow_v1alpha1_workflow_resume_request import (
            IoArgoprojWorkflowV1alpha1WorkflowResumeRequest as Resume,
        )
        from argo_workflows.model.io_argoproj_workflow_v1alpha1_workflow_stop_request import (
            IoArgoprojWorkflowV1alpha1WorkflowStopRequest as Request,
        )

        stopped = self._json(self.workflows.stop_workflow, name, Request())
        if mapping(mapping(stopped).get("spec")).get("suspend"):  # Argo ignores a shutdown of a suspended workflow
            return self._json(self.workflows.resume_workflow, name, Resume())
        return stopped

    def retry(self, name: str, from_start: bool = False) -> None:
        """Argo's own retry. It works neither after a stop ("couldn't find parent node") nor after QUALITY_THRESHOLD_FAILED, where
        package has succeeded: ValidationFailed."""
        workflow = self.get(name) or {}
        nodes = (workflow.get("status", {}).get("nodes") or {}).values()
        has_packaged = any(n["name"] == f"{name}.package" and n["phase"] == "Succeeded" for n in nodes)
        if from_start or workflow.get("spec", {}).get("shutdown") or has_packaged:
            raise ValidationFailed(
                "Argo's own retry cannot go on with this job.",
                "Run `sixview retry` without --argo-server, or submit the set again.",
            )
        from argo_workflows.model.io_argoproj_workflow_v1alpha1_workflow_retry_request import (
            IoArgoprojWorkflowV1alpha1WorkflowRetryRequest as Request,
        )

        self._json(self.workflows.retry_workflow, name, Request())

    def log(self, workflow: str, pod: str, follow: bool) -> Iterator[str]:
        response = self._call(
            self.workflows.workflow_logs,
            workflow,
            pod_name=pod,
            log_options_container="main",
            log_options_follow=follow,
        )
        for line in response or ():
            content = mapping(mapping(_decoded(line)).get("result")).get("content")
            if content is not None:
                yield text(content, len(line))

    def template(self, name: str) -> dict[str, Any] | None:
        return self._json(self.templates.get_workflow_template, name)

    def _json(self, function: Any, *arguments: Any, **options: Any) -> Any:
        response = self._call(function, *arguments, **options)
        return None if response is None else _decoded(response.data)

    def _call(self, function: Any, *arguments: Any, **options: Any) -> Any:
        from argo_workflows import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return function(self.namespace, *arguments, _preload_content=False, _check_return_type=False, **options)
        except ApiException as error:
            return _raise_for_status(error.status, error.body, error.reason)
        except HTTPError as error:
            raise ClusterUnavailable(f"The Argo Server does not answer: {error}") from None


def _pages(request: Callable[[str], Any]) -> Iterator[Page]:
    """Every page of a list. request: continue token -> list response; empty token: the first page."""
    token = ""
    while True:
        listing = mapping(request(token))
        metadata = mapping(listing.get("metadata"))
        page = Page(
            [mapping(item) for item in sequence(listing.get("items"))],
            text(metadata.get("resourceVersion")),
            text(metadata.get("continue")),
        )
        yield page
        if page.continue_token in ("", token):
            return
        token = page.continue_token


def _decoded(data: Any) -> Any:
    try:
        return reading.decoded(data)
    except ValueError as error:
        raise ClusterUnavailable(f"The cluster's answer cannot be read: {error}") from None


def _raise_for_status(status: int | None, body: Any, reason: Any) -> None:
    """Raises the exception of an HTTP status of at least 400; returns for 404. body: the Status object, as JSON."""
    try:
        content = mapping(reading.decoded(body or "{}"))
    except ValueError:
        content = {}
    message = text(mapping(content.get("object")).get("message")) or text(content.get("message")) or str(reason)
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

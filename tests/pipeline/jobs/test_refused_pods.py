"""Why a pod was never made: refusals of the API server, from workflows as Argo 3.7 writes them."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.jobs import pending
from pipeline.jobs.failure import describe


def refused(message: str, phase: str = "Error", retry: str = "Running") -> dict[str, Any]:
    """A workflow with a pod that the API server rejected."""
    attempt = {
        "id": "a",
        "type": "Pod",
        "templateName": "validate",
        "phase": phase,
        "message": message,
        "displayName": "validate(0)",
    }
    return {
        "metadata": {"name": "sixview-j", "annotations": {}},
        "spec": {},
        "status": {"nodes": {"a": attempt, "r": {"id": "r", "type": "Retry", "phase": retry, "children": ["a"]}}},
    }


FORBIDDEN = 'pods "sixview-j-validate-1" is forbidden: '
REFUSALS = [
    (f"{FORBIDDEN}no PriorityClass with name sixview-urgent was found", "there is no PriorityClass sixview-urgent"),
    (
        f'{FORBIDDEN}error looking up service account sixview/sixview-step: serviceaccount "sixview-step" not found',
        "the service account sixview-step is not there",
    ),
    (
        f'{FORBIDDEN}violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (containers '
        f'"init", "wait" must set …',
        "Pod Security (restricted:latest)",
    ),
    (
        'admission webhook "validate.kyverno.svc-fail" denied the request: no latest tags',
        "the admission webhook validate.kyverno",
    ),
    (
        'Internal error occurred: failed calling webhook "mutate.example.com": failed to call webhook: no endpoints available',
        "the admission webhook mutate.example.com does not answer",
    ),
    (f'{FORBIDDEN}pod rejected: RuntimeClass "nvidia" not found', "there is no RuntimeClass nvidia"),
    (f"{FORBIDDEN}failed quota: compute: must specify limits.cpu for: main,wait", "the quota compute"),
    (f"{FORBIDDEN}maximum memory usage per Container is 1Gi, but limit is 2Gi", "LimitRange"),
    ('Pod "sixview-j-validate-1" is invalid: spec.containers[0].resources.requests: Invalid value', "Invalid value"),
]


@pytest.mark.parametrize(("message", "words"), REFUSALS)
def test_a_pod_that_was_refused_is_told_while_argo_tries_again_and_in_the_record(message: str, words: str) -> None:
    (wait,) = pending.of_workflow(refused(message))
    assert wait.code == "CONFIGURATION_ERROR"
    assert words in wait.reason
    values = describe(refused(message, retry="Error"), [], "Failed")
    assert values["error-code"] == "CONFIGURATION_ERROR"
    assert words in values["message"]


def test_an_exit_handler_that_was_refused_is_the_reason_where_nothing_else_failed() -> None:
    account = 'error looking up service account sixview/sixview-report: serviceaccount "sixview-report" not found'
    wf = refused(FORBIDDEN + account, retry="Error")
    wf["status"]["nodes"]["a"]["templateName"] = "report"
    values = describe(wf, [], "Error")
    assert values["error-code"] == "CONFIGURATION_ERROR"
    assert "the service account sixview-report is not there" in values["message"]


def test_a_quota_that_others_use_up_is_waited_for_and_one_that_is_too_small_is_not() -> None:
    words = f"{FORBIDDEN}exceeded quota: gpus, requested: requests.nvidia.com/gpu={{}}, "
    words += "used: requests.nvidia.com/gpu=1, limited: requests.nvidia.com/gpu=1"
    (busy,) = pending.of_workflow(refused(words.format(1), phase="Pending"))
    (never,) = pending.of_workflow(refused(words.format(2), phase="Pending"))
    assert (busy.code, never.code) == ("", "CONFIGURATION_ERROR")
    assert "the quota gpus allows requests.nvidia.com/gpu=1 in all" in never.reason


def test_a_running_pod_has_no_reason_to_wait() -> None:
    assert not list(pending.of_workflow(refused("main: Error (exit code 1)")))
    assert not list(pending.of_workflow(refused(REFUSALS[0][0], retry="Succeeded")))
    assert not list(pending.of_workflow({"metadata": {"name": "new"}}))

"""Who may do what, and what the API server itself says of everything we render."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.workflow.dag import workflow_template
from pipeline.workflow.helm_render import to_yaml
from tests.cluster.client import argo
from tests.cluster.node import kubectl, run
from tests.cluster.places import BIN, NAMESPACE, ROOT

CHART = ROOT / "charts" / "sixview"
SCENARIOS = sorted(path.name for path in (CHART / "ci").iterdir())
EVERYBODY = {"selfsubjectreviews.authentication.k8s.io", "selfsubjectaccessreviews.authorization.k8s.io"}
EVERYBODY |= {"selfsubjectrulesreviews.authorization.k8s.io"}


def rights(account: str) -> dict[str, set[str]]:
    """`kubectl auth can-i --list` for a ServiceAccount: resource -> verbs, without what everybody may."""
    user = f"system:serviceaccount:{NAMESPACE}:{account}"
    listed = kubectl("auth", "can-i", "--list", "-n", NAMESPACE, "--as", user).stdout.splitlines()[1:]
    verbs_of = {}
    for line in listed:
        resource, verbs = line.split()[0], re.search(r"\[([a-z ]*)\]\s*$", line)
        if resource not in EVERYBODY and not resource.startswith("["):
            verbs_of[resource] = set(verbs[1].split()) if verbs else set()
    return verbs_of


def test_a_step_may_report_its_results_and_nothing_else(cluster: None) -> None:
    assert rights("sixview-step") == {"workflowtaskresults.argoproj.io": {"create", "patch"}}


def test_the_exit_handler_may_also_read_and_label_its_workflow(cluster: None) -> None:
    assert rights("sixview-report") == {
        "workflowtaskresults.argoproj.io": {"create", "patch"},
        "workflows.argoproj.io": {"get", "patch"},
        "pods": {"get", "list"},
    }


def test_the_reconciler_may_find_and_stop_workflows(cluster: None) -> None:
    assert rights("sixview-reconciler") == {
        "workflows.argoproj.io": {"get", "list", "patch"},
        "pods": {"get", "list"},
        "events": {"get", "list"},
        "nodes": {"list"},  # what they have, against what pods ask for
    }


def test_the_gateway_may_submit_watch_and_stop_workflows(cluster: None) -> None:
    assert rights("sixview-cpu-gateway") == {
        "workflows.argoproj.io": {"create", "get", "list", "patch", "watch"},
        "workflowtemplates.argoproj.io": {"get"},
        "nodes": {"list"},  # whose GPUs /health shows
    }


def test_what_an_event_triggers_may_start_a_workflow_and_nothing_else(cluster: None) -> None:
    assert rights("sixview-cpu-sensor") == {"workflows.argoproj.io": {"create"}}
    assert rights("sixview-cpu-drops") == {
        "workflowtaskresults.argoproj.io": {"create", "patch"},
        "workflows.argoproj.io": {"create", "get"},
        "workflowtemplates.argoproj.io": {"get"},
    }


def test_the_namespace_admits_no_pod_with_more_rights(cluster: None) -> None:
    """Enforced, so every pod that ran here passed; and one that asks for more is refused."""
    labels = json.loads(kubectl("get", "namespace", NAMESPACE, "-o", "json").stdout)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "greedy"}}
    pod["spec"] = {"containers": [{"name": "main", "image": "localhost/pause:1"}]}
    refused = kubectl("-n", NAMESPACE, "apply", "--dry-run=server", "-f", "-", check=False, given=json.dumps(pod))
    assert "violates PodSecurity" in refused.stderr


def test_every_container_of_a_step_has_the_restricted_security_context(
    succeeded: Callable[[str], dict[str, Any]],
) -> None:
    """As they ran: Argo's own containers too, the GPU requested, no token where the step is."""
    for pod in succeeded("both")["pods"]:
        for container in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"], container["name"]
            assert context["runAsNonRoot"]
            assert not context["allowPrivilegeEscalation"]
            assert context["capabilities"] == {"drop": ["ALL"]}
            mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
            has_token = any("serviceaccount" in path for path in mounted)
            assert not (has_token and container["name"] == "main" and "-report-" not in pod["metadata"]["name"])
            if container["name"] == "main" and "-report-" not in pod["metadata"]["name"]:
                assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert pod["spec"]["priorityClassName"] == "sixview-normal"
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


# -- as rendered --------------------------------------------------------------------------------------------------------


def rendered(*options: str) -> str:
    return run(str(BIN / "helm"), "template", "sixview", str(CHART), *options)


def test_manifests_are_the_chart_with_its_defaults(cluster: None) -> None:
    """`make manifests` writes them anew."""
    assert (ROOT / "manifests" / "sixview.yaml").read_text() == rendered()


def test_the_chart_s_workflow_is_the_program_s(cluster: None) -> None:
    documents = [d for d in yaml.safe_load_all(rendered()) if d and d["kind"] == "WorkflowTemplate"]
    assert documents == [yaml.safe_load(to_yaml(workflow_template()))]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_passes_helm_s_argo_s_and_the_api_server_s_checks(
    cluster: None, scenario: str, tmp_path: Path
) -> None:
    values = ("-f", str(CHART / "ci" / scenario))
    run(str(BIN / "helm"), "lint", "--strict", str(CHART), *values)
    documents = [d for d in yaml.safe_load_all(rendered(*values)) if d]
    workflow = tmp_path / "workflow.yaml"
    kinds = ("WorkflowTemplate", "CronWorkflow")
    workflow.write_text("\n---\n".join(to_yaml(d) for d in documents if d["kind"] in kinds))
    argo("lint", "--offline", str(workflow))
    kubectl("create", "namespace", "dry", check=False)
    everything = "\n---\n".join(to_yaml(d) for d in documents)
    kubectl("-n", "dry", "apply", "--dry-run=server", "-f", "-", given=everything)


def test_thrift_is_a_gpu_for_the_models_and_the_cpu_for_the_rest(cluster: None) -> None:
    documents = [d for d in yaml.safe_load_all(rendered("-f", str(CHART / "ci/thrift-values.yaml"))) if d]
    spec = next(d for d in documents if d["kind"] == "WorkflowTemplate")["spec"]
    pods = {t["name"]: t["container"] for t in spec["templates"] if t.get("container") and t["name"] != "report"}
    with_gpu = {name for name, main in pods.items() if "nvidia.com/gpu" in main["resources"]["limits"]}
    assert with_gpu == {"reconviagen-pod", "nvdiffrec-pod"}
    assert {name for name, main in pods.items() if "--device=cpu" not in main["args"]} == with_gpu


def test_chart_values_outside_the_schema_are_refused(cluster: None) -> None:
    for wrong in (
        "device=gpu",
        "steps.quality.gpus=-1",
        "images.engine=engines-cpu",
        "limits.jobSeconds=soon",
        "s3.bucket=",
        "events.source=pigeon",
        "gateway.tokens.alice=token",
        "lifetimes.records=1",
    ):
        with pytest.raises(RuntimeError, match="values don't meet the specifications"):
            rendered("--set", wrong)


def test_scheduling_constraints_and_network_policy_are_rendered(cluster: None) -> None:
    """Another node for a retry, the NetworkPolicy, GPU nodes: this cluster has one node, and its bridge enforces no policy."""
    documents = {
        (d["kind"], d["metadata"]["name"]): d
        for d in yaml.safe_load_all(
            rendered("-f", str(CHART / "ci/gpu-values.yaml"), "--set", "retries.anotherNode=true")
        )
        if d
    }
    spec = documents["WorkflowTemplate", "sixview"]["spec"]
    pods = [t for t in spec["templates"] if t.get("container") and t["name"] != "report"]
    assert all(t["retryStrategy"]["affinity"] == {"nodeAntiAffinity": {}} for t in pods)
    assert "nodeAntiAffinity" not in rendered()  # it is a requirement: only where the values ask for it
    assert all(t["container"]["resources"]["limits"]["nvidia.com/gpu"] == "1" for t in pods)
    assert spec["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert spec["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H200"}
    assert json.loads(spec["podSpecPatch"])["runtimeClassName"] == "nvidia"
    policy = documents["NetworkPolicy", "sixview-steps"]["spec"]
    assert policy["ingress"] == []
    assert documents["ResourceQuota", "sixview-gpus"]["spec"]["hard"] == {"requests.nvidia.com/gpu": "4"}

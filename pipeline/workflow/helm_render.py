"""The WorkflowTemplate as YAML, and as a template of the Helm chart.

The chart's template is the same manifest with Helm expressions for values of values.yaml. It is rendered from `Settings` whose
values are placeholders, unique words and numbers that pass Hera's type checks, and are then replaced by the expressions.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from pipeline.workflow.dag import workflow_template
from pipeline.workflow.resources import Size
from pipeline.workflow.settings import PODS, Settings
from pipeline.workflow.step_templates import DEVICE
from steps.runtime.contract import MODELS, flag

TEXT_PLACEHOLDERS = {
    "@NAME@": '{{ include "sixview.fullname" . }}',
    "@REGISTRY@": "{{ .Values.images.registry }}",
    "@TAG@": "{{ .Values.images.tag | default .Chart.AppVersion }}",
    "@ENGINES@": "{{ .Values.images.engines }}",
    "@RECONVIAGEN@": "{{ .Values.images.reconviagen | default .Values.images.engines }}",
    "@WEIGHTS@": '{{ include "sixview.weightsVolume" . }}',
    "@BUCKET@": "{{ .Values.s3.bucket }}",
    "@ENDPOINT@": '{{ include "sixview.endpoint" . }}',
    "@SCHEME@": '{{ ternary "http" "https" .Values.s3.insecure }}',
    "@DEVICE@": "{{ .Values.device }}",
    "@PULL@": "{{ .Values.images.pullPolicy }}",
    "@INSECURE@": "{{ .Values.s3.insecure }}",
}
NUMBER_PLACEHOLDERS = {
    900001: "{{ .Values.limits.jobSeconds }}",
    900002: "{{ .Values.limits.podSeconds }}",
    900003: "{{ .Values.retries.ram }}",
    900004: "{{ .Values.retries.vram }}",
    900005: "{{ .Values.retries.infrastructure }}",
    900007: "{{ .Values.limits.checkpointSeconds }}",
    900008: "{{ .Values.retries.mostMemoryMiB }}",
    900006: "{{ mul .Values.limits.daysKept 86400 }}",
}
# fields that are absent unless values.yaml sets them
OPTIONAL_FIELDS = """\
  {{- with .Values.runtimeClassName }}
  podSpecPatch: {{ dict "runtimeClassName" . | toJson | quote }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{ toJson . }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{ toJson . }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{ toJson . }}
  {{- end }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{ toJson . }}
  {{- end }}
"""
AFFINITY = r"\1{{- if .Values.retries.anotherNode }}\n\1affinity: {nodeAntiAffinity: {}}\n\1{{- end }}\n"
# a step beside the models whose pod requests no GPU computes on the CPU, whatever the job wants
GPUS = r"\1{{- if .Values.steps.\2.gpus }}\n\3\1{{- else }}\n\1- --device=cpu\n\1{{- end }}\n"
HEADER = "# Written by `sixview render --chart` from pipeline/workflow/dag.py: change it there.\n"
MEMORY_PLACEHOLDERS = {step: 910001 + i for i, step in enumerate(PODS)}


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        return True


def manifest(settings: Settings | None = None) -> str:
    """The WorkflowTemplate as YAML."""
    return to_yaml(workflow_template(settings))


def to_yaml(tree: Any) -> str:
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)


def placeholder_settings() -> Settings:
    """Settings whose every value is a placeholder."""
    return Settings(
        name="@NAME@",
        registry="@REGISTRY@",
        tag="@TAG@",
        engines="@ENGINES@",
        reconviagen="@RECONVIAGEN@",
        sizes={step: Size("1", number) for step, number in MEMORY_PLACEHOLDERS.items()},
        device="@DEVICE@",
        bucket="@BUCKET@",
        endpoint="@ENDPOINT@",
        scheme="@SCHEME@",
        job_seconds=900001,
        pod_seconds=900002,
        checkpoint_seconds=900007,
        ram_retries=900003,
        vram_retries=900004,
        infrastructure_retries=900005,
        ttl_seconds=900006,
        most_memory_mib=900008,
    )


def chart_template() -> str:
    """charts/sixview/templates/workflowtemplate.yaml."""
    tree = workflow_template(placeholder_settings())
    for template in tree["spec"]["templates"]:
        _insert_placeholders(template)
    text = to_yaml(tree).replace("{{", '{{"{{"}}')  # Argo's own expressions are not Helm's
    for placeholder, expression in TEXT_PLACEHOLDERS.items():
        text = text.replace(f"'{placeholder}'", expression).replace(placeholder, expression)
    for number, expression in {
        **NUMBER_PLACEHOLDERS,
        **{n: f"{{{{ .Values.steps.{s}.memoryMiB }}}}" for s, n in MEMORY_PLACEHOLDERS.items()},
    }.items():
        text = text.replace(str(number), expression)
    text = re.sub(r"'?@RESOURCES ([a-z]+)@'?", r'{{ include "sixview.resources" (list . "\1") }}', text)
    text = re.sub(r"( *)affinity: '@AFFINITY@'\n", AFFINITY, text)
    text = re.sub(r"( *)- '@GPUS ([a-z]+)@'\n(.*\n)", GPUS, text)
    return HEADER + text + OPTIONAL_FIELDS


def _insert_placeholders(template: dict[str, Any]) -> None:
    """Replaces fields of a template that are neither text nor a number, such as `resources`, by placeholders. In place."""
    step = template.get("metadata", {}).get("annotations", {}).get("sixview.dev/step", "")
    if step and step != "report":
        step = step.removesuffix("-pod").rpartition("-")[2]
        template["container"]["resources"] = f"@RESOURCES {step}@"
        template["container"]["args"] = [
            word for arg in template["container"]["args"] for word in _with_marked_device(arg, step)
        ]
        template["retryStrategy"]["affinity"] = "@AFFINITY@"
    if "volumes" in template:
        template["volumes"] = "@WEIGHTS@"
    for container in [template.get("container"), *template.get("sidecars", [])]:
        if container:
            container["imagePullPolicy"] = "@PULL@"
    for artifact in template.get("inputs", {}).get("artifacts", []):
        if "endpoint" in artifact.get("s3", {}):
            artifact["s3"]["insecure"] = "@INSECURE@"


def _with_marked_device(argument: str, step: str) -> list[str]:
    """An argument of a step, after a placeholder where it is a device that depends on whether the pod has a GPU."""
    is_marked = argument.startswith(flag(DEVICE)) and step not in MODELS
    return [f"@GPUS {step}@", argument] if is_marked else [argument]


def write(root: Path) -> None:
    """Writes the chart's template below the repository's root."""
    (root / "charts/sixview/templates/workflowtemplate.yaml").write_text(chart_template())

"""The workflow as text: as a manifest, and as a template of the Helm chart.

The chart's template is the same manifest with a Helm expression wherever values.yaml decides. Text is marked by words that occur
nowhere else, numbers by numbers that do not: so all of it passes through Hera's types and through the one place where the
workflow is written.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from pipeline.workflow.dag import workflow_template
from pipeline.workflow.resources import Size
from pipeline.workflow.settings import PODS, Settings

WORDS = {
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
NUMBERS = {
    900001: "{{ .Values.limits.jobSeconds }}",
    900002: "{{ .Values.limits.podSeconds }}",
    900003: "{{ .Values.retries.ram }}",
    900004: "{{ .Values.retries.vram }}",
    900005: "{{ .Values.retries.infrastructure }}",
    900007: "{{ .Values.limits.checkpointSeconds }}",
    900008: "{{ .Values.retries.mostMemoryMiB }}",
    900006: "{{ mul .Values.limits.daysKept 86400 }}",
}
# what has no place in the manifest where values.yaml says nothing
EXTRAS = """\
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
HEADER = "# Written by `sixview render --chart` from pipeline/workflow/dag.py: change it there.\n"
MEMORY = {step: 910001 + i for i, step in enumerate(PODS)}


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        return True


def manifest(settings: Settings | None = None) -> str:
    """The WorkflowTemplate as YAML."""
    return dumped(workflow_template(settings))


def dumped(tree: Any) -> str:
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)


def chart_settings() -> Settings:
    """Settings whose every value is a mark."""
    return Settings(
        name="@NAME@",
        registry="@REGISTRY@",
        tag="@TAG@",
        engines="@ENGINES@",
        reconviagen="@RECONVIAGEN@",
        sizes={step: Size("1", number) for step, number in MEMORY.items()},
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
        seconds_kept=900006,
        most_memory_mib=900008,
    )


def chart_template() -> str:
    """charts/sixview/templates/workflowtemplate.yaml."""
    tree = workflow_template(chart_settings())
    for template in tree["spec"]["templates"]:
        _mark(template)
    text = dumped(tree).replace("{{", '{{"{{"}}')  # Argo's own expressions are not Helm's
    for mark, expression in WORDS.items():
        text = text.replace(f"'{mark}'", expression).replace(mark, expression)
    for number, expression in {
        **NUMBERS,
        **{n: f"{{{{ .Values.steps.{s}.memoryMiB }}}}" for s, n in MEMORY.items()},
    }.items():
        text = text.replace(str(number), expression)
    text = re.sub(r"'?@RESOURCES ([a-z]+)@'?", r'{{ include "sixview.resources" (list . "\1") }}', text)
    text = re.sub(r"( *)affinity: '@AFFINITY@'\n", AFFINITY, text)
    return HEADER + text + EXTRAS


def _mark(template: dict[str, Any]) -> None:
    """What is neither text nor a number."""
    step = template.get("metadata", {}).get("annotations", {}).get("sixview.dev/step", "")
    if step and step != "report":
        template["container"]["resources"] = f"@RESOURCES {step.removesuffix('-pod').rpartition('-')[2]}@"
        template["retryStrategy"]["affinity"] = "@AFFINITY@"
    if "volumes" in template:
        template["volumes"] = "@WEIGHTS@"
    for container in [template.get("container"), *template.get("sidecars", [])]:
        if container:
            container["imagePullPolicy"] = "@PULL@"
    for artifact in template.get("inputs", {}).get("artifacts", []):
        if "endpoint" in artifact.get("s3", {}):
            artifact["s3"]["insecure"] = "@INSECURE@"


def write(root: Path) -> None:
    """Writes what is committed of this."""
    (root / "charts/sixview/templates/workflowtemplate.yaml").write_text(chart_template())

"""Container templates, one function per step, from the step's contract.

Every pod writes to /work, an emptyDir: Argo can read outputs on a volume even after all processes of the container were killed,
but not those in the container's own file system. Artifact keys depend on the workflow only, not on the attempt that wrote them.
"""

from __future__ import annotations

import json
from typing import Any

from hera.workflows import Container, NoneArchiveStrategy, Parameter, RawArtifact, S3Artifact, UserContainer
from hera.workflows import models as argo

from pipeline.clients.s3 import key_of
from pipeline.jobs.failure import EXIT_HANDLER_OUTPUTS
from pipeline.jobs.pod_messages import NOT_RETRYABLE, RETRYABLE, SIGTERMED
from pipeline.workflow.resources import CONTROL, SIDECAR
from pipeline.workflow.settings import Settings
from pipeline.workflow.substitution import all_options, conditional, integer, option, safe_text, tag, url_part
from steps.runtime.contract import MODELS, OUTPUTS, STEPS, arguments, job_fields
from steps.runtime.errors import DiskFull, GpuUnavailable, Interrupted
from steps.runtime.options import JOB_OPTIONS, PRIORITIES

# Command with which Argo signals a container. By default only process 1 gets the signal, which it may miss before its handler is
# set, and SIGKILL from inside does not reach it: so all other processes are signalled, too
KILL_COMMAND = json.dumps(["sh", "-c", "kill -s %d -- -1; kill -s %[1]d 1"])
# the job's folder, see `clients.s3`; with the uid, since users choose workflow names
FOLDER = "{{=sprig.trimPrefix('sixview-', workflow.name) + '.' + workflow.uid}}"
WORK = "/work"
WEIGHTS = "/weights"
MOUNTS = [argo.VolumeMount(name="work", mount_path=WORK), argo.VolumeMount(name="tmp", mount_path="/tmp")]
SECURITY_CONTEXT = argo.SecurityContext(
    allow_privilege_escalation=False,
    read_only_root_filesystem=True,
    run_as_non_root=True,
    capabilities=argo.Capabilities(drop=["ALL"]),
)
# without `maxDuration`: it counts from the first attempt, including hours in the queue for a GPU, and would end later attempts
BACKOFF = argo.Backoff(duration="5s", factor=argo.IntOrString(root="2"))
MODEL_FLAGS: dict[str, Any] = {
    "scene": f"{WORK}/scene",
    "out": f"{WORK}/mesh",
    "deadline_seconds": integer("deadline"),
    "earlier_attempts": tag(safe_text("earlier")),
}
MEMORY = integer("memory") + "Mi"
DEVICE = "device"  # the flag of a step, and the job's option
ATTEMPT_PARAMETERS = ("memory", "deadline", "earlier")  # passed from the DAG of attempts to the pod
CHECKPOINT = "nvdiffrec/checkpoint.pt"
REQUESTED_MODELS = tag(
    conditional("model", {**{model: model for model in MODELS}, "both": ",".join(MODELS)}, MODELS[0])
)
# single files are stored as they are, for browsers and downloads; folders as .tgz
NO_ARCHIVE = NoneArchiveStrategy()

# -- artifacts ----------------------------------------------------------------------------------------------------------


def artifact_key(name: str) -> str:
    """S3 key of one of the job's files."""
    return key_of(FOLDER, name)


def input_artifact(name: str, path: str, object_name: str, optional: bool = False) -> S3Artifact:
    """An input artifact. path: below /work; object_name: in the job's folder, folders end with .tgz."""
    archive = None if object_name.endswith(".tgz") else NO_ARCHIVE
    return S3Artifact(
        name=name, path=f"{WORK}/{path}", key=artifact_key(object_name), optional=optional or None, archive=archive
    )


def output_artifact(name: str, path: str, object_name: str) -> S3Artifact:
    """An output artifact, as `input_artifact`. Always optional, so that a failed step's files are saved."""
    archive = None if object_name.endswith(".tgz") else NO_ARCHIVE
    return S3Artifact(name=name, path=f"{WORK}/{path}", key=artifact_key(object_name), optional=True, archive=archive)


SCENE = input_artifact("scene", "scene", "scene.tgz")


def mesh_artifact(model: str) -> S3Artifact:
    return input_artifact("mesh", "mesh", f"{model}/mesh.tgz")


# -- pods -------------------------------------------------------------------------------------------------------------


def output_parameters() -> list[Parameter]:
    """A step's output parameters. Each has a default: Argo stops saving at the first missing file without one."""
    files = {name: (name, default) for name, default in OUTPUTS.items()} | {"failure": ("failure.json", "")}
    return [
        Parameter(name=name, value_from=argo.ValueFrom(path=f"{WORK}/outputs/{file}", default=default))
        for name, (file, default) in files.items()
    ]


def pod(
    settings: Settings,
    name: str,
    step: str,
    flags: dict[str, Any],
    input_artifacts: list[S3Artifact],
    output_artifacts: list[S3Artifact],
    **options: Any,
) -> Container:
    """A container template that runs `python -m steps.<step>`. name: of the template; flags: fields of the step's contract that
    are no options of the job; options: fields of Container."""
    parameters = STEPS[step](outputs=f"{WORK}/outputs", **job_flags(step, settings.gpus[step]), **flags)  # type: ignore[arg-type]
    return Container(
        name=name,
        image=settings.image(step),
        image_pull_policy=settings.pull_policy,
        command=["with-kernels", "python", "-m", f"steps.{step}"],
        args=arguments(parameters),
        security_context=SECURITY_CONTEXT,
        volume_mounts=options.pop("volume_mounts", MOUNTS),
        resources=argo.ResourceRequirements(**settings.sizes[step].resources(settings.gpus[step])),
        inputs=[*options.pop("inputs", []), *input_artifacts],
        outputs=[*output_parameters(), *output_artifacts, output_artifact("outputs", "outputs", f"outputs/{name}.tgz")],
        retry_strategy=retry_strategy(settings),
        active_deadline_seconds=settings.pod_seconds,
        priority_class_name=priority_class(settings),
        annotations={"sixview.dev/step": name, "workflows.argoproj.io/kill-cmd-main": KILL_COMMAND},
        **options,
    )


def job_flags(step: str, gpus: int = 1) -> dict[str, str]:
    """Flags of a step that are options of the job. gpus: that its pod requests; without one it computes on the CPU, whatever the
    job wants, but for the models, which are never given another device than was asked for. In validate, which checks all options
    by `options_file`, and in package, which then reports, the default replaces a value that could not be passed on, so that they
    can start."""
    names = job_fields(STEPS[step])
    if step in ("validate", "package"):
        flags = {field: option(name, default=str(JOB_OPTIONS[name].default)) for field, name in names.items()}
    else:
        flags = {field: option(name) for field, name in names.items()}
    return flags if gpus or step in MODELS else flags | {DEVICE: "cpu"}


def retry_strategy(settings: Settings) -> argo.RetryStrategy:
    """retryStrategy for infrastructure failures: lost nodes, preemption, an unavailable store, GPU or disk errors.

    Failures that the step reports are not retried, nor those that repeat on every node (a pod's limit, a missing input). Argo can
    only require another node, not prefer it, and a small pool is soon used up: so the anti-affinity is off by default, and taints
    keep pods from nodes that are lost, drained or under pressure."""
    exit_codes = [error.exit_code for error in (GpuUnavailable, DiskFull, Interrupted)]
    codes = ", ".join(f"'{code}'" for code in (*exit_codes, SIGTERMED))
    lost, not_retryable = (f"lastRetry.message matches '{pattern}'" for pattern in (RETRYABLE, NOT_RETRYABLE))
    affinity = argo.RetryAffinity(node_anti_affinity=argo.RetryNodeAntiAffinity()) if settings.another_node else None
    return argo.RetryStrategy(
        limit=argo.IntOrString(root=str(settings.infrastructure_retries)),
        retry_policy="Always",
        expression=f"(lastRetry.status == 'Error' || lastRetry.exitCode in [{codes}] || {lost}) && !({not_retryable})",
        backoff=BACKOFF,
        affinity=affinity,
    )


def options_file(path: str) -> RawArtifact:
    """All workflow parameters, as a JSON file."""
    return RawArtifact(name="options", path=f"{WORK}/{path}", data=all_options())


def priority_class(settings: Settings) -> str:
    """Expression for the PriorityClass of a job's pods."""
    classes = {level: f"{settings.name}-{level}" for level in PRIORITIES}
    return tag(conditional("priority", classes, classes["normal"]))


def validate(settings: Settings) -> Container:
    """The step validate, which checks all options of the job."""
    flags = {"input": f"{WORK}/input", "out": f"{WORK}/scene", "options": f"{WORK}/options.json"}
    output_artifacts = [
        output_artifact("scene", "scene", "scene.tgz"),
        output_artifact("about", "scene/scene.json", "scene.json"),
    ]
    inputs = [options_file("options.json")]
    return pod(settings, "validate", "validate", flags, [input_set(settings)], output_artifacts, inputs=inputs)


def input_set(settings: Settings) -> S3Artifact:
    """The job's input, a prefix or a .zip of any bucket that the keys can read. Not unpacked by Argo: validate checks
    archives."""
    return S3Artifact(
        name="input",
        path=f"{WORK}/input",
        bucket=url_part(1),
        key=url_part(2),
        endpoint=settings.endpoint,
        insecure=settings.scheme == "http",
        access_key_secret=secret(settings, "access-key"),
        secret_key_secret=secret(settings, "secret-key"),
        archive=NO_ARCHIVE,
    )


def secret(settings: Settings, name: str) -> argo.SecretKeySelector:
    """Selector of access-key or secret-key in the S3 secret."""
    return argo.SecretKeySelector(name=f"{settings.name}-s3", key=name)


def reconviagen(settings: Settings) -> Container:
    """The step reconviagen. attempts.json persists between attempts in S3; /weights is empty without a claim."""
    flags = MODEL_FLAGS | {"attempts": f"{WORK}/state/attempts.json", "weights": WEIGHTS}
    attempts = ("attempts", "state/attempts.json", "reconviagen/attempts.json")
    mounts = [*MOUNTS, argo.VolumeMount(name="weights", mount_path=WEIGHTS, read_only=True)]
    return model_pod(
        settings,
        "reconviagen",
        flags,
        [input_artifact(*attempts, optional=True)],
        [output_artifact(*attempts)],
        volumes=[weights_volume(settings)],
        volume_mounts=mounts,
    )


def weights_volume(settings: Settings) -> argo.Volume:
    if not settings.weights_claim:
        return argo.Volume(name="weights", empty_dir=argo.EmptyDirVolumeSource())
    claim = argo.PersistentVolumeClaimVolumeSource(claim_name=settings.weights_claim, read_only=True)
    return argo.Volume(name="weights", persistent_volume_claim=claim)


def nvdiffrec(settings: Settings) -> Container:
    """The step nvdiffrec. attempts.json and the checkpoint persist between attempts in S3."""
    state = f"{WORK}/state"
    flags = MODEL_FLAGS | {"attempts": f"{state}/attempts.json", "checkpoint": f"{state}/checkpoint.pt"}
    flags |= {"checkpoint_seconds": settings.checkpoint_seconds}
    attempts = ("attempts", "state/attempts.json", "nvdiffrec/attempts.json")
    input_artifacts = [
        input_artifact(*attempts, optional=True),
        input_artifact("checkpoint", "state/checkpoint.pt", CHECKPOINT, optional=True),
    ]
    return model_pod(
        settings,
        "nvdiffrec",
        flags,
        input_artifacts,
        [output_artifact(*attempts)],
        sidecars=[checkpoint_sidecar(settings)],
    )


def model_pod(
    settings: Settings,
    model: str,
    flags: dict[str, Any],
    input_artifacts: list[S3Artifact],
    output_artifacts: list[S3Artifact],
    **options: Any,
) -> Container:
    """Container template of one attempt of a model, whose memory is an input parameter (podSpecPatch)."""
    patch = {
        "containers": [{"name": "main", "resources": {side: {"memory": MEMORY} for side in ("requests", "limits")}}]
    }
    inputs = [Parameter(name=name) for name in ATTEMPT_PARAMETERS]
    output_artifacts = [output_artifact("mesh", "mesh", f"{model}/mesh.tgz"), *output_artifacts]
    options |= {"inputs": inputs, "pod_spec_patch": json.dumps(patch)}
    return pod(settings, f"{model}-pod", model, flags, [SCENE, *input_artifacts], output_artifacts, **options)


def checkpoint_sidecar(settings: Settings) -> UserContainer:
    """Sidecar that uploads the checkpoint while the step runs: artifacts of a lost pod are not saved."""
    return UserContainer(
        name="checkpoints",
        image=settings.image("control"),
        image_pull_policy=settings.pull_policy,
        command=["python", "-m", "pipeline.incluster.checkpoint_sidecar"],
        args=[f"{WORK}/state/checkpoint.pt", f"s3://{settings.bucket}/{artifact_key(CHECKPOINT)}"],
        env=store_environment(settings),
        volume_mounts=MOUNTS,
        security_context=SECURITY_CONTEXT,
        resources=argo.ResourceRequirements(**SIDECAR.resources(gpus=0)),
    )


def store_environment(settings: Settings) -> list[Any]:
    """Environment variables of `clients.s3`."""
    keys = {"AWS_ACCESS_KEY_ID": "access-key", "AWS_SECRET_ACCESS_KEY": "secret-key"}
    variables = {"S3_ENDPOINT": f"{settings.scheme}://{settings.endpoint}", "S3_BUCKET": settings.bucket}
    return [
        *(argo.EnvVar(name=name, value=value) for name, value in variables.items()),
        *(
            argo.EnvVar(name=name, value_from=argo.EnvVarSource(secret_key_ref=secret(settings, secret_key)))
            for name, secret_key in keys.items()
        ),
    ]


def quality(settings: Settings, model: str) -> Container:
    flags = {"scene": f"{WORK}/scene", "mesh": f"{WORK}/mesh", "out": f"{WORK}/quality"}
    output_artifacts = [output_artifact("quality", "quality", f"{model}/quality.tgz")]
    return pod(settings, f"{model}-quality", "quality", flags, [SCENE, mesh_artifact(model)], output_artifacts)


def preview(settings: Settings, model: str) -> Container:
    flags = {"scene": f"{WORK}/scene", "mesh": f"{WORK}/mesh", "out": f"{WORK}/preview"}
    output_artifacts = [output_artifact("preview", "preview", f"{model}/preview.tgz")]
    return pod(settings, f"{model}-preview", "preview", flags, [SCENE, mesh_artifact(model)], output_artifacts)


def package(settings: Settings) -> Container:
    """The step package. All inputs are optional: after a failure it still writes the report."""
    flags = {"job": f"{WORK}/job", "out": f"{WORK}/package", "models": REQUESTED_MODELS}
    input_artifacts = [input_artifact("about", "job/scene/scene.json", "scene.json", optional=True)]
    for model in MODELS:
        parts = [(part, f"{model}/{part}") for part in ("mesh", "quality", "preview")]
        input_artifacts += [
            input_artifact(f"{model}-{part}", f"job/{path}", f"{path}.tgz", optional=True) for part, path in parts
        ]
    for name, template in templates_in_report().items():
        input_artifacts.append(
            input_artifact(f"outputs-{template}", f"job/outputs/{name}", f"outputs/{template}.tgz", optional=True)
        )
    output_artifacts = [
        output_artifact("report", "package/report/index.html", "report.html"),
        output_artifact("result", "package/result.zip", "result.zip"),
    ]
    return pod(
        settings,
        "package",
        "package",
        flags,
        input_artifacts,
        output_artifacts,
        inputs=[options_file("job/options.json")],
    )


def templates_in_report() -> dict[str, str]:
    """Folder below job/outputs/ -> template, for the steps whose outputs the report shows."""
    names = {"validate": "validate"}
    for model in MODELS:
        names |= {model: f"{model}-pod"} | {f"{model}.{part}": f"{model}-{part}" for part in ("quality", "preview")}
    return names


# -- the exit handler ---------------------------------------------------------------------------------------------------


def exit_handler(settings: Settings) -> Container:
    """The exit handler. It reads the Workflow from the API server: Argo cannot pass outputs of tasks that may not have run."""
    parameters = [
        Parameter(name=name, value_from=argo.ValueFrom(path=f"{WORK}/record/{name}", default=default))
        for name, default in EXIT_HANDLER_OUTPUTS.items()
    ]
    return Container(
        name="report",
        image=settings.image("control"),
        image_pull_policy=settings.pull_policy,
        command=["python", "-m", "pipeline.incluster.exit_handler"],
        args=["{{workflow.namespace}}", "{{workflow.name}}", "{{workflow.status}}", f"{WORK}/record"],
        service_account_name=f"{settings.name}-report",
        priority_class_name=priority_class(settings),
        automount_service_account_token=True,
        env=store_environment(settings),
        security_context=SECURITY_CONTEXT,
        volume_mounts=MOUNTS,
        resources=argo.ResourceRequirements(**CONTROL.resources(gpus=0)),
        outputs=[*parameters, output_artifact("failure", "record/failure.json", "failure.json")],
        retry_strategy=argo.RetryStrategy(
            limit=argo.IntOrString(root="3"),
            retry_policy="Always",
            expression="!(lastRetry.message matches '[Aa]ccess ?[Dd]enied')",  # access rights do not change between retries
            backoff=BACKOFF,
        ),
        annotations={"sixview.dev/step": "report"},
    )

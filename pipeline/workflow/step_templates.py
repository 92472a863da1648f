"""One function per step: the step's contract -> an Argo container template. And `attempts`, which runs a model again.

Every pod works in /work, an emptyDir: what lies on a volume is read by Argo as it was last written even where the kernel killed
the whole container, and what lies in the image's own layers is not. Artifacts have keys that follow from the workflow, so
that a step's inputs do not depend on which attempt of the step before made them.
"""

from __future__ import annotations

import json
from typing import Any

from hera.workflows import (
    DAG,
    Container,
    NoneArchiveStrategy,
    Parameter,
    RawArtifact,
    S3Artifact,
    Task,
    UserContainer,
)
from hera.workflows import models as argo

from pipeline.clients.s3 import key_of
from pipeline.jobs.failure import EXIT_HANDLER_OUTPUTS
from pipeline.jobs.pod_messages import NOT_RETRYABLE, RETRYABLE, SIGKILLED
from pipeline.workflow.resources import CONTROL, GROWTH, SIDECAR
from pipeline.workflow.settings import Settings
from pipeline.workflow.substitution import address_part, all_options, chosen, option, tag, whole, words
from steps.runtime.contract import MODELS, OUTPUTS, STEPS, arguments
from steps.runtime.errors import DiskFull, GpuUnavailable, Interrupted, Killed, ModelOom
from steps.runtime.options import PRIORITIES

# How Argo ends a container. By itself it signals the first process alone, which may lose the signal before it listens, and cannot
# be killed from within: so every other process is signalled too
KILL = json.dumps(["sh", "-c", "kill -s %d -- -1; kill -s %[1]d 1"])
# the job's folder, see `clients.s3`: a workflow's name is chosen by whoever submits it, its uid is not
JOB = "{{=sprig.trimPrefix('sixview-', workflow.name) + '.' + workflow.uid}}"
WORK = "/work"
WEIGHTS = "/weights"
MOUNTS = [argo.VolumeMount(name="work", mount_path=WORK), argo.VolumeMount(name="tmp", mount_path="/tmp")]
LOCKED = argo.SecurityContext(
    allow_privilege_escalation=False,
    read_only_root_filesystem=True,
    run_as_non_root=True,
    capabilities=argo.Capabilities(drop=["ALL"]),
)
# no longest duration (`maxDuration`): it would count the hours that a pod waited for a GPU or worked before its node was lost,
# and end the next attempt
BACKOFF = argo.Backoff(duration="5s", factor=argo.IntOrString(root="2"))
GATES = ("psnr_threshold", "ssim_threshold", "object_psnr_threshold", "object_ssim_threshold")
EARLIER = {"earlier_attempts": tag(words("earlier"))}
MEMORY = whole("memory") + "Mi"
PASSED_ON = ("memory", "deadline", "earlier")  # from an attempt's template to its pod
CHECKPOINT = "nvdiffrec/checkpoint.pt"
MODELS_ASKED = tag(chosen("model", {**{model: model for model in MODELS}, "both": ",".join(MODELS)}, MODELS[0]))
# whole files keep their names in S3, for browsers and for whoever fetches them; folders travel as .tgz
AS_IT_IS = NoneArchiveStrategy()

# -- artifacts ----------------------------------------------------------------------------------------------------------


def key(name: str) -> str:
    """Where a part of the job lies in the bucket."""
    return key_of(JOB, name)


def taken(name: str, path: str, where: str, optional: bool = False) -> S3Artifact:
    """An input."""
    plain = None if where.endswith(".tgz") else AS_IT_IS
    return S3Artifact(name=name, path=f"{WORK}/{path}", key=key(where), optional=optional or None, archive=plain)


def left(name: str, path: str, where: str) -> S3Artifact:
    """An output. All are optional: a step that fails leaves what it has."""
    plain = None if where.endswith(".tgz") else AS_IT_IS
    return S3Artifact(name=name, path=f"{WORK}/{path}", key=key(where), optional=True, archive=plain)


SCENE = taken("scene", "scene", "scene.tgz")


def mesh(model: str) -> S3Artifact:
    return taken("mesh", "mesh", f"{model}/mesh.tgz")


# -- pods -------------------------------------------------------------------------------------------------------------


def values() -> list[Parameter]:
    """A step's small output files. Argo stops saving at the first that is missing without a default."""
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
    takes: list[S3Artifact],
    leaves: list[S3Artifact],
    **more: Any,
) -> Container:
    """A container template that runs a step's command. name: the template's; flags: fields of the step's contract."""
    parameters = STEPS[step](outputs=f"{WORK}/outputs", **flags)  # type: ignore[arg-type]
    return Container(
        name=name,
        image=settings.image(step),
        image_pull_policy=settings.pull_policy,
        command=["with-kernels", "python", "-m", f"steps.{step}"],
        args=arguments(parameters),
        security_context=LOCKED,
        volume_mounts=more.pop("volume_mounts", MOUNTS),
        resources=argo.ResourceRequirements(**settings.sizes[step].resources(settings.gpus[step])),
        inputs=[*more.pop("inputs", []), *takes],
        outputs=[*values(), *leaves, left("outputs", "outputs", f"outputs/{name}.tgz")],
        retry_strategy=infrastructure(settings),
        active_deadline_seconds=settings.pod_seconds,
        priority_class_name=priority_class(settings),
        annotations={"sixview.dev/step": name, "workflows.argoproj.io/kill-cmd-main": KILL},
        **more,
    )


def infrastructure(settings: Settings) -> argo.RetryStrategy:
    """What is not the step's fault is tried again as it was: lost nodes, preemption, a store that was away. What the step itself
    reports as its own failure is not, nor what is the same on every node: a limit of the pod's, an input that is not there. Argo
    cannot prefer another node, only require one, and a pool no larger than the retries is soon used up; without that Kubernetes'
    own taints keep pods from a node that is lost, drained or under pressure."""
    codes = ", ".join(f"'{error.exit_code}'" for error in (GpuUnavailable, DiskFull, Interrupted))
    lost, final = (f"lastRetry.message matches '{words}'" for words in (RETRYABLE, NOT_RETRYABLE))
    affinity = argo.RetryAffinity(node_anti_affinity=argo.RetryNodeAntiAffinity()) if settings.another_node else None
    return argo.RetryStrategy(
        limit=argo.IntOrString(root=str(settings.infrastructure_retries)),
        retry_policy="Always",
        expression=f"(lastRetry.status == 'Error' || lastRetry.exitCode in [{codes}] || {lost}) && !({final})",
        backoff=BACKOFF,
        affinity=affinity,
    )


def options_file(path: str) -> RawArtifact:
    """What the job was given."""
    return RawArtifact(name="options", path=f"{WORK}/{path}", data=all_options())


def priority_class(settings: Settings) -> str:
    """The PriorityClass of every pod of a job."""
    classes = {level: f"{settings.name}-{level}" for level in PRIORITIES}
    return tag(chosen("priority", classes, classes["normal"]))


def validate(settings: Settings) -> Container:
    """Checks every option first: Argo itself checks none. So a wrong one of its own may be another here."""
    flags = {"input": f"{WORK}/input", "out": f"{WORK}/scene", "options": f"{WORK}/options.json"}
    flags |= {name: option(name, otherwise="auto") for name in ("rig", "device")}
    leaves = [left("scene", "scene", "scene.tgz"), left("about", "scene/scene.json", "scene.json")]
    inputs = [options_file("options.json")]
    return pod(settings, "validate", "validate", flags, [submitted(settings)], leaves, inputs=inputs)


def submitted(settings: Settings) -> S3Artifact:
    """The input set, a prefix or a .zip of any bucket that the keys open. Argo would unpack the .zip by itself, and leave our
    checks out: it is taken as it is."""
    return S3Artifact(
        name="input",
        path=f"{WORK}/input",
        bucket=address_part(1),
        key=address_part(2),
        endpoint=settings.endpoint,
        insecure=settings.scheme == "http",
        access_key_secret=secret(settings, "access-key"),
        secret_key_secret=secret(settings, "secret-key"),
        archive=AS_IT_IS,
    )


def secret(settings: Settings, name: str) -> argo.SecretKeySelector:
    """One of the two keys to the store."""
    return argo.SecretKeySelector(name=f"{settings.name}-s3", key=name)


def model_flags(model: str) -> dict[str, Any]:
    """What both models are told."""
    flags = {name: option(name) for name in ("device", "resolution", "faces", "seed")}
    flags |= {"texture_size": option("texture-size"), "scene": f"{WORK}/scene", "out": f"{WORK}/mesh"}
    grid = "grid" if model == "reconviagen" else "fusion_grid"
    return flags | {grid: option("grid"), "deadline_seconds": whole("deadline"), **EARLIER}


def reconviagen(settings: Settings) -> Container:
    """With its memory of earlier attempts, which outlives the pod in S3, and the folder of the published model's weights, empty
    where there is no claim."""
    flags = model_flags("reconviagen") | {"engine": option("engine"), "weights": WEIGHTS}
    flags |= {"attempts": f"{WORK}/state/attempts.json"}
    attempts = ("attempts", "state/attempts.json", "reconviagen/attempts.json")
    mounts = [*MOUNTS, argo.VolumeMount(name="weights", mount_path=WEIGHTS, read_only=True)]
    return model_pod(
        settings,
        "reconviagen",
        flags,
        [taken(*attempts, optional=True)],
        [left(*attempts)],
        volumes=[weights(settings)],
        volume_mounts=mounts,
    )


def weights(settings: Settings) -> argo.Volume:
    if not settings.weights_claim:
        return argo.Volume(name="weights", empty_dir=argo.EmptyDirVolumeSource())
    claim = argo.PersistentVolumeClaimVolumeSource(claim_name=settings.weights_claim, read_only=True)
    return argo.Volume(name="weights", persistent_volume_claim=claim)


def nvdiffrec(settings: Settings) -> Container:
    """With its memory of earlier attempts and its checkpoint, which outlive the pod in S3."""
    state = f"{WORK}/state"
    flags = model_flags("nvdiffrec") | {"attempts": f"{state}/attempts.json", "checkpoint": f"{state}/checkpoint.pt"}
    flags |= {"iterations": option("iterations"), "checkpoint_seconds": settings.checkpoint_seconds}
    attempts = ("attempts", "state/attempts.json", "nvdiffrec/attempts.json")
    takes = [taken(*attempts, optional=True), taken("checkpoint", "state/checkpoint.pt", CHECKPOINT, optional=True)]
    return model_pod(settings, "nvdiffrec", flags, takes, [left(*attempts)], sidecars=[checkpoints(settings)])


def model_pod(
    settings: Settings,
    model: str,
    flags: dict[str, Any],
    takes: list[S3Artifact],
    leaves: list[S3Artifact],
    **more: Any,
) -> Container:
    """A model's pod: one attempt, with the memory that the attempts before have taught."""
    patch = {
        "containers": [{"name": "main", "resources": {side: {"memory": MEMORY} for side in ("requests", "limits")}}]
    }
    inputs = [Parameter(name=name) for name in PASSED_ON]
    leaves = [left("mesh", "mesh", f"{model}/mesh.tgz"), *leaves]
    more |= {"inputs": inputs, "pod_spec_patch": json.dumps(patch)}
    return pod(settings, f"{model}-pod", model, flags, [SCENE, *takes], leaves, **more)


def checkpoints(settings: Settings) -> UserContainer:
    """Carries the checkpoint into S3 while the step runs: a lost pod's files are lost with it."""
    return UserContainer(
        name="checkpoints",
        image=settings.image("control"),
        image_pull_policy=settings.pull_policy,
        command=["python", "-m", "pipeline.incluster.checkpoint_sidecar"],
        args=[f"{WORK}/state/checkpoint.pt", f"s3://{settings.bucket}/{key(CHECKPOINT)}"],
        env=store_environment(settings),
        volume_mounts=MOUNTS,
        security_context=LOCKED,
        resources=argo.ResourceRequirements(**SIDECAR.resources(gpus=0)),
    )


def store_environment(settings: Settings) -> list[Any]:
    """What `clients.s3` reads."""
    keys = {"AWS_ACCESS_KEY_ID": "access-key", "AWS_SECRET_ACCESS_KEY": "secret-key"}
    told = {"S3_ENDPOINT": f"{settings.scheme}://{settings.endpoint}", "S3_BUCKET": settings.bucket}
    return [
        *(argo.EnvVar(name=name, value=value) for name, value in told.items()),
        *(
            argo.EnvVar(name=name, value_from=argo.EnvVarSource(secret_key_ref=secret(settings, which)))
            for name, which in keys.items()
        ),
    ]


def quality(settings: Settings, model: str) -> Container:
    flags = {"scene": f"{WORK}/scene", "mesh": f"{WORK}/mesh", "out": f"{WORK}/quality"}
    flags |= {name: option(name.replace("_", "-")) for name in GATES}
    leaves = [left("quality", "quality", f"{model}/quality.tgz")]
    return pod(settings, f"{model}-quality", "quality", flags, [SCENE, mesh(model)], leaves)


def preview(settings: Settings, model: str) -> Container:
    flags = {"scene": f"{WORK}/scene", "mesh": f"{WORK}/mesh", "out": f"{WORK}/preview"}
    leaves = [left("preview", "preview", f"{model}/preview.tgz")]
    return pod(settings, f"{model}-preview", "preview", flags, [SCENE, mesh(model)], leaves)


def package(settings: Settings) -> Container:
    """Takes what there is: after a failure it packs nothing and still writes the report."""
    flags = {"job": f"{WORK}/job", "out": f"{WORK}/package", "models": MODELS_ASKED}
    takes = [taken("about", "job/scene/scene.json", "scene.json", optional=True)]
    for model in MODELS:
        parts = [(part, f"{model}/{part}") for part in ("mesh", "quality", "preview")]
        takes += [taken(f"{model}-{part}", f"job/{path}", f"{path}.tgz", optional=True) for part, path in parts]
    for name, template in recorded_steps().items():
        takes.append(taken(f"outputs-{template}", f"job/outputs/{name}", f"outputs/{template}.tgz", optional=True))
    leaves = [
        left("report", "package/report/index.html", "report.html"),
        left("result", "package/result.zip", "result.zip"),
    ]
    return pod(settings, "package", "package", flags, takes, leaves, inputs=[options_file("job/options.json")])


def recorded_steps() -> dict[str, str]:
    """The steps whose outputs the report shows, by their names in a job folder -> their templates."""
    names = {"validate": "validate"}
    for model in MODELS:
        names |= {model: f"{model}-pod"} | {f"{model}.{part}": f"{model}-{part}" for part in ("quality", "preview")}
    return names


# -- attempts ---------------------------------------------------------------------------------------------------------


def attempts(settings: Settings, model: str) -> DAG:
    """One attempt of a model, and after a failure that more memory or a lower rung can help, this template once more with
    arguments that follow from what the attempt left. Argo's own retry knows only a count, which lost nodes raise too."""
    said = "tasks.attempt.outputs?.parameters?."  # none where outputs were lost; a deleted pod has no exit code either
    own, ended_with = f"({said}['error-code'] ?? '')", "(tasks.attempt.exitCode ?? '')"
    killed = f"{ended_with} in ['{Killed.exit_code}', '{SIGKILLED}']"
    by_exit = f"{ended_with} == '{ModelOom.exit_code}' ? '{ModelOom.code}' : {killed} ? '{Killed.code}' : ''"
    code, used = f"({own} != '' ? {own} : ({by_exit}))", f"int(float({said}seconds ?? '0'))"
    rungs = f"int({said}['rungs-left'] ?? '0')"
    of_ram, of_vram = f"({code} in ['MODEL_OOM', 'KILLED'])", f"({code} == 'MODEL_VRAM_OOM')"
    now = "int(inputs.parameters.memory)"
    grown = (
        f"max({now}, min({settings.most_memory_mib}, {GROWTH} * {now}))"  # a first attempt may have more than the cap
    )
    before = words("earlier")
    ended = f"{code} + ' at ' + string({now}) + ' MiB of memory'"
    arguments = {
        "memory": f"{of_ram} ? {grown} : int(inputs.parameters.memory)",
        "deadline": f"max(1, int(inputs.parameters.deadline) - {used})",
        "earlier": f"{before} + ({before} == '' ? '' : ', ') + {ended}",
        "rams": f"int(inputs.parameters.rams) + ({of_ram} ? 1 : 0)",
        "vrams": f"int(inputs.parameters.vrams) + ({of_vram} ? 1 : 0)",
    }
    worth = (
        f"({of_ram} && int(inputs.parameters.rams) < {settings.ram_retries}) || "
        f"({of_vram} && {rungs} > 0 && int(inputs.parameters.vrams) < {settings.vram_retries})"
    )
    again = Task(
        name="again",
        template=model,
        depends="attempt.Failed || attempt.Errored",
        when=f"{{{{={worth}}}}}",
        arguments=[Parameter(name=name, value=f"{{{{={text}}}}}") for name, text in arguments.items()],
    )
    same = [Parameter(name=name, value=tag(words(name)) if name == "earlier" else whole(name)) for name in PASSED_ON]
    first = {"earlier": "", "rams": "0", "vrams": "0"}
    return DAG(
        name=model,
        inputs=[
            Parameter(name="memory"),
            Parameter(name="deadline"),
            *(Parameter(name=n, value=v) for n, v in first.items()),
        ],
        tasks=[Task(name="attempt", template=f"{model}-pod", arguments=same), again],
        outputs=[Parameter(name="seconds-left", value_from=argo.ValueFrom(expression=SECONDS_LEFT, default="1"))],
    )


SECONDS_LEFT = (
    "tasks.again.status == 'Succeeded' ? tasks.again.outputs.parameters['seconds-left'] : "
    "string(max(1, int(inputs.parameters.deadline) - int(float(tasks.attempt.outputs.parameters.seconds))))"
)

# -- the exit handler ---------------------------------------------------------------------------------------------------


def report(settings: Settings) -> Container:
    """Says in one record how the workflow ended. It reads the workflow itself: Argo hands an exit handler no outputs of tasks
    that may not have run."""
    told = [
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
        security_context=LOCKED,
        volume_mounts=MOUNTS,
        resources=argo.ResourceRequirements(**CONTROL.resources(gpus=0)),
        outputs=[*told, left("failure", "record/failure.json", "failure.json")],
        retry_strategy=argo.RetryStrategy(
            limit=argo.IntOrString(root="3"),
            retry_policy="Always",
            expression="!(lastRetry.message matches '[Aa]ccess ?[Dd]enied')",  # a store that refuses will refuse again
            backoff=BACKOFF,
        ),
        annotations={"sixview.dev/step": "report"},
    )

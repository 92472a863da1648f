"""The whole job as one Argo WorkflowTemplate. What each pod runs is in `step_templates`."""

from __future__ import annotations

from typing import Any

from hera.workflows import DAG, Parameter, Task, WorkflowTemplate
from hera.workflows import models as argo

from pipeline.jobs.status import FOLDER
from pipeline.workflow import step_templates
from pipeline.workflow.settings import Settings
from pipeline.workflow.step_templates import MOUNTS
from pipeline.workflow.substitution import any_of, chosen
from steps.runtime.contract import MODELS
from steps.runtime.options import JOB_OPTIONS

LOOKS = {model: tuple(f"{model}-{part}" for part in ("quality", "preview")) for model in MODELS}


def job(settings: Settings) -> DAG:
    """validate -> reconviagen -> its quality and preview -> nvdiffrec -> its quality and preview -> package.

    The first failure stops what comes after it, but for package, which still writes the report; hence the list of targets: a
    job succeeds when each of them did, or was not asked for."""
    left = "tasks.reconviagen.outputs.parameters['seconds-left']"
    left = f"{{{{=string(tasks.reconviagen.status == 'Succeeded' ? {left} : {settings.job_seconds})}}}}"
    looked = " && ".join(f"{task}.Succeeded" for task in LOOKS["reconviagen"])
    begun = f"validate.Succeeded && (reconviagen.Skipped || ({looked}))"
    tasks: list[Task | argo.DAGTask] = [
        Task(name="validate", template="validate"),
        model_task(settings, "reconviagen", "validate.Succeeded", str(settings.job_seconds)),
        *after("reconviagen"),
        model_task(settings, "nvdiffrec", begun, left),
        *after("nvdiffrec"),
        Task(
            name="package", template="package", depends=" && ".join(ended(t) for pair in LOOKS.values() for t in pair)
        ),
    ]
    return DAG(name="job", tasks=tasks, target=" ".join(task.name for task in tasks), fail_fast=False)


def model_task(settings: Settings, model: str, depends: str, deadline: str) -> Task:
    """A model, where it was asked for."""
    arguments = {"memory": str(settings.sizes[model].memory_mib), "deadline": deadline}
    return Task(
        name=model,
        template=model,
        depends=depends,
        when=f"{{{{={any_of('model', (model, 'both'))}}}}}",
        arguments=[Parameter(name=name, value=value) for name, value in arguments.items()],
    )


def after(model: str) -> list[Task]:
    """What looks at a model's mesh. A mesh below the gate is drawn all the same."""
    return [Task(name=name, template=name, depends=f"{model}.Succeeded") for name in LOOKS[model]]


def ended(task: str) -> str:
    """In any way."""
    return "(" + " || ".join(f"{task}.{end}" for end in ("Succeeded", "Failed", "Errored", "Skipped", "Omitted")) + ")"


def parameters(settings: Settings) -> list[Parameter]:
    """What `argo submit -p` and the UI offer. Argo checks none of it: the step validate does."""
    text = "The set: s3://bucket/prefix with multi_views/ and depth_renders/, or s3://bucket/set.zip."
    defaults = {name: option.default for name, option in JOB_OPTIONS.items()} | {"device": settings.device}
    options = [
        Parameter(
            name=name,
            value=str(defaults[name]),
            enum=list(option.choices) or None,
            description=option.text if option.choices else f"{option.text} {option.allowed().capitalize()}.",
        )
        for name, option in JOB_OPTIONS.items()
    ]
    return [Parameter(name="input", description=text), *options]


def workflow_template(settings: Settings | None = None) -> dict[str, Any]:
    """The manifest, as plain data."""
    settings = settings or Settings()
    models = [part(settings) for part in (step_templates.reconviagen, step_templates.nvdiffrec)]
    looks = [part(settings, model) for model in MODELS for part in (step_templates.quality, step_templates.preview)]
    found = WorkflowTemplate(
        name=settings.name,
        labels={"app.kubernetes.io/name": "sixview"},
        annotations={
            "workflows.argoproj.io/title": "sixview",
            "workflows.argoproj.io/description": "Six views and six depth renders of an object in, a textured mesh out.",
        },
        entrypoint="job",
        on_exit="report",
        arguments=parameters(settings),
        templates=[
            job(settings),
            step_templates.validate(settings),
            *(step_templates.attempts(settings, model) for model in MODELS),
            *models,
            *looks,
            step_templates.package(settings),
            step_templates.report(settings),
        ],
        volumes=[argo.Volume(name=m.name, empty_dir=argo.EmptyDirVolumeSource()) for m in MOUNTS],
        **pods(settings),
        **keeping(settings),
    )
    return dict(found.to_dict())


def pods(settings: Settings) -> dict[str, Any]:
    """What every pod has: no rights, no root, no token but the executor's."""
    return {
        "service_account_name": f"{settings.name}-step",
        "executor": argo.ExecutorConfig(service_account_name=f"{settings.name}-step"),
        "automount_service_account_token": False,
        "security_context": argo.PodSecurityContext(
            run_as_non_root=True,
            run_as_user=8737,  # as Argo's own containers: they read and write the same volumes
            run_as_group=8737,
            fs_group=8737,
            seccomp_profile=argo.SeccompProfile(type="RuntimeDefault"),
        ),
        "pod_metadata": argo.Metadata(labels={"app.kubernetes.io/name": "sixview"}),
    }


def keeping(settings: Settings) -> dict[str, Any]:
    """Where results and logs go, how long things stay, how many jobs run at a time."""
    model = chosen("model", {choice: choice for choice in JOB_OPTIONS["model"].choices})
    limit = argo.ConfigMapKeySelector(name=f"{settings.name}-limits", key="running-jobs")
    return {
        "artifact_repository_ref": argo.ArtifactRepositoryRef(config_map=f"{settings.name}-artifacts", key="default"),
        "archive_logs": True,
        "artifact_gc": argo.WorkflowLevelArtifactGC(strategy="Never"),
        "ttl_strategy": argo.TTLStrategy(seconds_after_completion=settings.seconds_kept),
        "pod_gc": argo.PodGC(strategy="OnWorkflowCompletion", delete_delay_duration="600s"),
        "synchronization": argo.Synchronization(semaphores=[argo.SemaphoreRef(config_map_key_ref=limit)]),
        "workflow_metadata": argo.WorkflowMetadata(
            labels={"app.kubernetes.io/name": "sixview", FOLDER: "uid"},
            labels_from={"sixview.dev/model": argo.LabelValueFrom(expression=model)},
        ),
    }

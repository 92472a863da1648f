"""The job as one Argo WorkflowTemplate. `step_templates` has the templates of its tasks,
`oom_retry` the DAG of a model's attempts."""

from __future__ import annotations

from typing import Any

from hera.workflows import DAG, Parameter, Task, WorkflowTemplate
from hera.workflows import models as argo

from pipeline.jobs.status import FOLDER
from pipeline.workflow import oom_retry, step_templates
from pipeline.workflow.settings import Settings
from pipeline.workflow.step_templates import MOUNTS
from pipeline.workflow.substitution import any_of, conditional
from steps.runtime.contract import MODELS
from steps.runtime.options import JOB_OPTIONS

EVALUATIONS = {model: tuple(f"{model}-{part}" for part in ("quality", "preview")) for model in MODELS}


def job(settings: Settings) -> DAG:
    """validate -> reconviagen -> its quality and preview -> nvdiffrec -> its quality and preview -> package.

    After a failure the later tasks are omitted, except package, which still writes the report. So every task is a target: the DAG
    succeeds only if each of them succeeded or was skipped."""
    seconds_left = "tasks.reconviagen.outputs.parameters['seconds-left']"
    seconds_left = f"{{{{=string(tasks.reconviagen.status == 'Succeeded' ? {seconds_left} : {settings.job_seconds})}}}}"
    evaluated = " && ".join(f"{task}.Succeeded" for task in EVALUATIONS["reconviagen"])
    depends = f"validate.Succeeded && (reconviagen.Skipped || ({evaluated}))"
    tasks: list[Task | argo.DAGTask] = [
        Task(name="validate", template="validate"),
        model_task(settings, "reconviagen", "validate.Succeeded", str(settings.job_seconds)),
        *evaluation_tasks("reconviagen"),
        model_task(settings, "nvdiffrec", depends, seconds_left),
        *evaluation_tasks("nvdiffrec"),
        Task(
            name="package",
            template="package",
            depends=" && ".join(has_ended(t) for pair in EVALUATIONS.values() for t in pair),
        ),
    ]
    return DAG(name="job", tasks=tasks, target=" ".join(task.name for task in tasks), fail_fast=False)


def model_task(settings: Settings, model: str, depends: str, deadline: str) -> Task:
    """The task of a model, with a `when` on the parameter `model`. depends, deadline: Argo expressions."""
    arguments = {"memory": str(settings.sizes[model].memory_mib), "deadline": deadline}
    return Task(
        name=model,
        template=model,
        depends=depends,
        when=f"{{{{={any_of('model', (model, 'both'))}}}}}",
        arguments=[Parameter(name=name, value=value) for name, value in arguments.items()],
    )


def evaluation_tasks(model: str) -> list[Task]:
    """quality and preview of a model. They run in parallel: a mesh below the quality gate gets its preview, too."""
    return [Task(name=name, template=name, depends=f"{model}.Succeeded") for name in EVALUATIONS[model]]


def has_ended(task: str) -> str:
    """A `depends` clause: the task has any final phase."""
    return (
        "(" + " || ".join(f"{task}.{phase}" for phase in ("Succeeded", "Failed", "Errored", "Skipped", "Omitted")) + ")"
    )


def parameters(settings: Settings) -> list[Parameter]:
    """The workflow's parameters. Argo does not validate their values: the step validate does."""
    description = "The set: s3://bucket/prefix with multi_views/ and depth_renders/, or s3://bucket/set.zip."
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
    return [Parameter(name="input", description=description), *options]


def workflow_template(settings: Settings | None = None) -> dict[str, Any]:
    """The WorkflowTemplate manifest as plain data."""
    settings = settings or Settings()
    models = [part(settings) for part in (step_templates.reconviagen, step_templates.nvdiffrec)]
    evaluations = [
        part(settings, model) for model in MODELS for part in (step_templates.quality, step_templates.preview)
    ]
    template = WorkflowTemplate(
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
            *(oom_retry.attempts(settings, model) for model in MODELS),
            *models,
            *evaluations,
            step_templates.package(settings),
            step_templates.exit_handler(settings),
        ],
        volumes=[argo.Volume(name=m.name, empty_dir=argo.EmptyDirVolumeSource()) for m in MOUNTS],
        **pod_defaults(settings),
        **retention(settings),
    )
    return dict(template.to_dict())


def pod_defaults(settings: Settings) -> dict[str, Any]:
    """Pod fields of the whole workflow: non-root, no service account token except the executor's."""
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


def retention(settings: Settings) -> dict[str, Any]:
    """Artifact repository, log archiving, TTL, pod GC, the semaphore of running jobs, labels."""
    model = conditional("model", {choice: choice for choice in JOB_OPTIONS["model"].choices})
    limit = argo.ConfigMapKeySelector(name=f"{settings.name}-limits", key="running-jobs")
    return {
        "artifact_repository_ref": argo.ArtifactRepositoryRef(config_map=f"{settings.name}-artifacts", key="default"),
        "archive_logs": True,
        "artifact_gc": argo.WorkflowLevelArtifactGC(strategy="Never"),
        "ttl_strategy": argo.TTLStrategy(seconds_after_completion=settings.ttl_seconds),
        "pod_gc": argo.PodGC(strategy="OnWorkflowCompletion", delete_delay_duration="600s"),
        "synchronization": argo.Synchronization(semaphores=[argo.SemaphoreRef(config_map_key_ref=limit)]),
        "workflow_metadata": argo.WorkflowMetadata(
            labels={"app.kubernetes.io/name": "sixview", FOLDER: "uid"},
            labels_from={"sixview.dev/model": argo.LabelValueFrom(expression=model)},
        ),
    }

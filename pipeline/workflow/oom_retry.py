"""The DAG that repeats a model after it ran out of memory, with more of it or at a lower level of its memory fallback."""

from __future__ import annotations

from hera.workflows import DAG, Parameter, Task
from hera.workflows import models as argo

from pipeline.jobs.pod_messages import SIGKILLED
from pipeline.workflow.resources import GROWTH
from pipeline.workflow.settings import Settings
from pipeline.workflow.step_templates import ATTEMPT_PARAMETERS
from pipeline.workflow.substitution import integer, safe_text, tag
from steps.runtime.errors import Killed, ModelOom, ModelVramOom

SECONDS_LEFT = (
    "tasks.again.status == 'Succeeded' ? tasks.again.outputs.parameters['seconds-left'] : "
    "string(max(1, int(inputs.parameters.deadline) - int(float(tasks.attempt.outputs.parameters.seconds))))"
)


def attempts(settings: Settings, model: str) -> DAG:
    """The DAG of a model's attempts: one attempt and, after an OOM that more memory or a lower level can avoid, this template
    again, with arguments from the failed attempt's outputs. Argo's retryStrategy has only a count, which lost nodes also
    raise."""
    outputs = "tasks.attempt.outputs?.parameters?."  # missing where outputs were lost; so is exitCode of a deleted pod
    error_code, exit_code = f"({outputs}['error-code'] ?? '')", "(tasks.attempt.exitCode ?? '')"
    killed = f"{exit_code} in ['{Killed.exit_code}', '{SIGKILLED}']"
    ooms = "".join(f"{exit_code} == '{error.exit_code}' ? '{error.code}' : " for error in (ModelOom, ModelVramOom))
    by_exit_code = f"({ooms}{killed} ? '{Killed.code}' : '')"
    # A step writes KILLED when it begins: the exit code knows better where the disk had no room for the last record, or where the
    # wait container of a pod that is deleted or evicted was ended together with the step and read the first one.
    code = f"({error_code} in ['', '{Killed.code}'] ? {by_exit_code} : {error_code})"
    seconds_used = f"int(float({outputs}seconds ?? '0'))"
    # where outputs were lost, the next attempt knows: it reads all earlier ones, and ends at once where no level is left
    levels_left = f"int({outputs}['rungs-left'] ?? '1')"
    # the node of a deleted pod is an Error. One that an eviction killed before its step could answer (137) cannot be told from an
    # OOM here, where Argo offers no message: it counts as one, at most ram_retries times
    is_ram_oom = f"({code} in ['{ModelOom.code}', '{Killed.code}'] && tasks.attempt.status == 'Failed')"
    is_vram_oom = f"({code} == '{ModelVramOom.code}')"
    memory = "int(inputs.parameters.memory)"
    # `max`: the first attempt's size may exceed the limit for later ones
    next_memory = f"max({memory}, min({settings.most_memory_mib}, {GROWTH} * {memory}))"
    earlier = safe_text("earlier")
    this_attempt = f"{code} + ' at ' + string({memory}) + ' MiB of memory'"
    arguments = {
        "memory": f"{is_ram_oom} ? {next_memory} : int(inputs.parameters.memory)",
        "deadline": f"max(1, int(inputs.parameters.deadline) - {seconds_used})",
        "earlier": f"{earlier} + ({earlier} == '' ? '' : ', ') + {this_attempt}",
        "rams": f"int(inputs.parameters.rams) + ({is_ram_oom} ? 1 : 0)",
        "vrams": f"int(inputs.parameters.vrams) + ({is_vram_oom} ? 1 : 0)",
    }
    is_retryable = (
        f"({is_ram_oom} && int(inputs.parameters.rams) < {settings.ram_retries}) || "
        f"({is_vram_oom} && {levels_left} > 0 && int(inputs.parameters.vrams) < {settings.vram_retries})"
    )
    next_attempt = Task(
        name="again",
        template=model,
        depends="attempt.Failed || attempt.Errored",
        when=f"{{{{={is_retryable}}}}}",
        arguments=[Parameter(name=name, value=f"{{{{={expression}}}}}") for name, expression in arguments.items()],
    )
    passed_on = [
        Parameter(name=name, value=tag(safe_text(name)) if name == "earlier" else integer(name))
        for name in ATTEMPT_PARAMETERS
    ]
    defaults = {"earlier": "", "rams": "0", "vrams": "0"}
    return DAG(
        name=model,
        inputs=[
            Parameter(name="memory"),
            Parameter(name="deadline"),
            *(Parameter(name=n, value=v) for n, v in defaults.items()),
        ],
        tasks=[Task(name="attempt", template=f"{model}-pod", arguments=passed_on), next_attempt],
        outputs=[Parameter(name="seconds-left", value_from=argo.ValueFrom(expression=SECONDS_LEFT, default="1"))],
    )

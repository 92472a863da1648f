"""The commands of `sixview` that use a cluster. Imports beyond click are inside the commands, so that --help is fast."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli import flags
from pipeline.cli.console import ErrorReportingGroup, print_failure

if TYPE_CHECKING:
    from pipeline.clients.kubernetes import Cluster

ENDED = ("completed", "failed", "cancelled")
POLL_SECONDS = 2.0


def with_cluster(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator with the options of the cluster connection; see `connect_cluster`."""
    for option in (
        click.option(
            "--namespace",
            "-n",
            envvar="SIXVIEW_NAMESPACE",
            default="sixview",
            show_default=True,
            help="Kubernetes namespace.",
        ),
        click.option(
            "--argo-server",
            envvar="ARGO_SERVER",
            default="",
            help="An Argo Server's address, where there is no kubeconfig; its token in ARGO_TOKEN.",
        ),
        click.option("--insecure-skip-verify", is_flag=True, help="Do not check the Argo Server's certificate."),
    ):
        command = option(command)
    return command


def connect_cluster(options: dict[str, Any]) -> Cluster:
    """Removes the options of `with_cluster` from `cli_options`, and connects. Raises ClusterUnavailable."""
    from pipeline.clients.kubernetes import connect

    server = options.pop("argo_server")
    if server and "://" not in server:
        server = f"https://{server}"
    return connect(options.pop("namespace"), server, options.pop("insecure_skip_verify"))


AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout and nothing else.")


@click.group(cls=ErrorReportingGroup)
def remote() -> None:
    """Commands for a cluster."""


@remote.command("submit", cls=flags.CheckedCommand)
@click.argument("input")
@flags.job_option("model")
@flags.job_option("engine", "Engine of reconviagen.", default=None)
@flags.job_option("device", "Where to compute; the template's default where left out.", default=None)
@flags.job_option("priority", "Which jobs go first.", default=None)
@click.option(
    "--parameter", "-p", "parameters", multiple=True, metavar="NAME=VALUE", help="Any other parameter of the template."
)
@click.option(
    "--template", envvar="SIXVIEW_TEMPLATE", default="sixview", show_default=True, help="The WorkflowTemplate."
)
@click.option("--wait", is_flag=True, help="Until the job has ended; its end is the exit code.")
@AS_JSON
@with_cluster
def submit(
    input: str, parameters: tuple[str, ...], template: str, wait: bool, as_json: bool, **cli_options: Any
) -> None:
    """Submit INPUT: a folder or .zip of this machine, which is checked and uploaded, or s3://bucket/prefix."""
    from pipeline.jobs import ids, service

    options = {k: v for k, v in flags.pop_job_options(cli_options).items() if v} | parse_parameters(parameters)
    service.options_from(options)
    remote = "://" in input
    if not remote:
        check_locally(Path(input))
    cluster = connect_cluster(cli_options)
    options = service.options_from(options, service.template_parameters(cluster, template))
    job = ids.new_id()
    source = s3_source(input) if remote else service.upload(Path(input), job)
    job_status = service.submit(cluster, job, source, options, template)
    if not as_json:
        click.echo(f"job {job} is {job_status['status']}; `sixview status {job} --watch` follows it")
    job_status = follow_job(cluster, job, quiet=as_json) if wait else job_status
    click.echo(service.as_json(job_status)) if as_json else None
    raise SystemExit(exit_code(job_status) if wait else 0)


def s3_source(url: str) -> str:
    """The normalised s3:// URL. Raises ValidationFailed where no object exists there; unchecked for other buckets than
    S3_BUCKET."""
    from pipeline.clients import s3
    from pipeline.jobs import service
    from steps.runtime.errors import ValidationFailed

    bucket, key = service.parse_source(url)
    if bucket == s3.bucket() and not any(s3.listed(key)):
        raise ValidationFailed(
            f"There is nothing at {url}.", "Give a prefix with multi_views/ and depth_renders/, or a .zip."
        )
    return f"s3://{bucket}/{key}"


def check_locally(path: Path) -> None:
    """Checks an input set before the upload. Raises BadInput."""
    from steps.io import input_checks

    input_checks.check_set(path)


def parse_parameters(pairs: tuple[str, ...]) -> dict[str, str]:
    parameters = dict(pair.partition("=")[::2] for pair in pairs)
    without_value = [name for name, value in parameters.items() if not value]
    if without_value:
        raise click.UsageError(f"--parameter {without_value[0]} has no value; write NAME=VALUE")
    return parameters


@remote.command("status")
@click.argument("job")
@click.option("--watch", is_flag=True, help="Until the job has ended; its end is the exit code.")
@AS_JSON
@with_cluster
def status(job: str, watch: bool, as_json: bool, **cli_options: Any) -> None:
    """Print JOB's status: progress, model, stage, queue position, and the failure record."""
    from pipeline.jobs import service

    cluster = connect_cluster(cli_options)
    job_status = follow_job(cluster, job, quiet=as_json) if watch else service.find(cluster, job)
    click.echo(service.as_json(job_status)) if as_json else print_status(job_status)
    raise SystemExit(exit_code(job_status) if watch else 0)


def follow_job(cluster: Cluster, job: str, quiet: bool) -> dict[str, Any]:
    """Prints changes of a job's status until it has ended. Returns the final status."""
    from pipeline.jobs import service

    last_line = ""
    while True:
        job_status = service.find(cluster, job)
        line = status_line(job_status)
        if line != last_line and not quiet:
            click.echo(line)
        last_line = line
        if job_status["status"] in ENDED and job_status["ended_at"]:
            return job_status
        time.sleep(POLL_SECONDS)


def status_line(job_status: dict[str, Any]) -> str:
    position = f", place {job_status['queue_position']} in the queue" if job_status["queue_position"] else ""
    activity = ", ".join(filter(None, (job_status["current_model"], job_status["stage"])))
    return f"{job_status['job_id']}  {job_status['status']:<10}  {job_status['progress']:>3} %  {activity}{position}".rstrip()


def print_status(job_status: dict[str, Any]) -> None:
    from pipeline.jobs import gpu_time

    click.echo(status_line(job_status))
    engine = f" ({job_status['engine']})" if job_status["engine"] else ""
    click.echo(f"model:    {job_status['model_type']}{engine}")
    click.echo(f"created:  {job_status['created_at']}\nupdated:  {job_status['updated_at']}")
    for line in gpu_time.lines(job_status["gpu"]):
        click.echo(line)
    if job_status["note"]:
        click.echo(job_status["note"])
    for warning in job_status["warnings"]:
        click.echo(f"WARNING: {warning}")
    if job_status["error"]:
        print_failure(job_status["error"])


def exit_code(job_status: dict[str, Any]) -> int:
    """Exit code of the job's error; 0 without one."""
    from steps.runtime.errors import UnknownError, by_code

    return by_code().get(job_status["error"]["code"], UnknownError).exit_code if job_status["error"] else 0


@remote.command("list")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@AS_JSON
@with_cluster
def listing(limit: int, as_json: bool, **cli_options: Any) -> None:
    """List the cluster's jobs, newest first."""
    from pipeline.jobs import service

    jobs = service.listing(connect_cluster(cli_options), limit)
    if as_json:
        click.echo(service.as_json(jobs))
        return
    for job_status in jobs:
        code = job_status["error"]["code"] if job_status["error"] else ""
        model, created, source = job_status["model_type"], job_status["created_at"], job_status["source"]
        click.echo(f"{status_line(job_status):<60}  {model:<11}  {created}  {source:<5} {code}".rstrip())
    if not jobs:
        click.echo("There are no jobs.")


@remote.command("logs")
@click.argument("job")
@click.option("--step", help="Only of this step: validate, reconviagen, nvdiffrec-quality, report …")
@click.option("--follow", "-f", is_flag=True, help="Go on while the step runs.")
@with_cluster
def logs(job: str, step: str | None, follow: bool, **cli_options: Any) -> None:
    """Print the logs of JOB's steps: from their pods while these exist, afterwards from S3."""
    from pipeline.jobs import logs, service

    cluster = connect_cluster(cli_options)
    for heading, lines in logs.job_logs(cluster, service.check_id(job), step, follow):
        click.secho(f"--- {heading}", bold=True)
        for line in lines:
            click.echo(line)


@remote.command("cancel")
@click.argument("job")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_cluster
def cancel(job: str, yes: bool, **cli_options: Any) -> None:
    """Stop JOB. Its uploads and intermediate files are deleted; its record and its logs stay."""
    from pipeline.jobs import service

    cluster = connect_cluster(cli_options)
    job_status = service.find(cluster, job)
    if not service.may_cancel(job_status):
        click.echo(f"{job_status['job_id']} was cancelled already")
        return
    if not yes and not click.confirm(f"Cancel {status_line(job_status)}?"):
        raise SystemExit("Nothing was cancelled. Without a terminal to ask at, give --yes.")
    service.cancel(cluster, job)
    click.echo(f"{job_status['job_id']} is being cancelled")


@remote.command("retry")
@click.argument("job")
@with_cluster
def retry(job: str, **cli_options: Any) -> None:
    """Retry JOB from the step that failed, half a minute after its end at the earliest: until then Argo may still delete pods
    by the names that the new ones get."""
    from pipeline.jobs import service

    print_status(service.retry(connect_cluster(cli_options), job))


@remote.command("fetch")
@click.argument("job")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the results.")
@AS_JSON
@with_cluster
def fetch(job: str, out: Path, as_json: bool, **cli_options: Any) -> None:
    """Download JOB's result and report. An interrupted download is resumed; every file's SHA-256 is checked."""
    from pipeline.jobs import download, service

    job_status = service.find(connect_cluster(cli_options), job)
    files = download.fetch(job_status, out)
    lines = "\n".join(f"{name + ':':8}{path}" for name, path in files.items())
    click.echo(service.as_json(files) if as_json else lines)


@remote.command("doctor")
@click.option(
    "--template", envvar="SIXVIEW_TEMPLATE", default="sixview", show_default=True, help="The WorkflowTemplate."
)
@with_cluster
def doctor(template: str, **cli_options: Any) -> None:
    """Check cluster, Argo, template, S3, GPUs and permissions, with advice for each fault."""
    from pipeline import doctor

    is_healthy = True
    for finding in doctor.examine(lambda: connect_cluster(cli_options), template):
        label = {True: "ok", False: "NO", None: "--"}[finding.ok]
        click.secho(f"{label}  {finding.what}", fg={True: "green", False: "red"}.get(finding.ok))  # type: ignore[arg-type]
        if finding.advice:
            click.echo(f"    {finding.advice}")
        is_healthy = is_healthy and finding.ok is not False
    raise SystemExit(0 if is_healthy else 1)


@remote.group("bucket")
def bucket() -> None:
    """The S3 bucket of inputs, artifacts and results."""


@bucket.command("setup")
@click.option("--bucket", "name", envvar="S3_BUCKET", default="sixview", show_default=True)
@click.option(
    "--target",
    envvar="SIXVIEW_DROP_TARGET",
    default="",
    help="ARN of the webhook or queue that hears of drops, as arn:minio:sqs::DROP:webhook.",
)
@click.option("--inputs-days", type=click.IntRange(0), default=7, show_default=True, help="Uploaded sets; 0: for ever.")
@click.option(
    "--intermediates-days", type=click.IntRange(0), default=7, show_default=True, help="What lies between the steps."
)
@click.option("--results-days", type=click.IntRange(0), default=30, show_default=True, help="ZIPs and reports.")
@click.option("--logs-days", type=click.IntRange(0), default=30, show_default=True)
@click.option("--drops-days", type=click.IntRange(0), default=30, show_default=True)
@click.option("--old-days", type=click.IntRange(0), default=7, show_default=True, help="Replaced and deleted versions.")
def setup(name: str, target: str, **days: int) -> None:
    """Create the bucket and set its versioning, lifecycle rules and notifications of drops. May be repeated."""
    from pipeline.clients import bucket_setup

    lifetimes = bucket_setup.Lifetimes(**{key.removesuffix("_days"): value for key, value in days.items()})
    for line in bucket_setup.setup(name, lifetimes, target):
        click.echo(f"{name}: {line}")


@remote.command("token")
@click.argument("name")
@click.option("--all", "sees_all", is_flag=True, help="A token that sees every job, not just its own.")
def token(name: str, sees_all: bool) -> None:
    """Create a bearer token for the HTTP API. The cluster stores its digest only."""
    from pipeline.gateway.tokens import NAME, new_token

    if not NAME.fullmatch(name):
        raise click.UsageError("a token's name consists of lower-case letters, digits and hyphens")
    secret, digest = new_token()
    value = f"{digest} all" if sees_all else digest
    patch = json.dumps({"stringData": {name: value}})
    click.echo(f"token: {secret}\nIt is shown only now. Let the service know it:")
    click.echo(f"  kubectl -n sixview patch secret sixview-tokens -p '{patch}'")


@remote.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, default=8080, show_default=True)
@click.option("--namespace", "-n", envvar="SIXVIEW_NAMESPACE", default="sixview", show_default=True)
@click.option("--template", envvar="SIXVIEW_TEMPLATE", default="sixview", show_default=True)
@click.option(
    "--tokens",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="SIXVIEW_TOKENS",
    help="Folder with the tokens' digests.",
)
@click.option("--no-auth", is_flag=True, help="Let anybody do anything.")
@click.option(
    "--input-bucket",
    "input_buckets",
    multiple=True,
    help="A bucket from which sets are taken by s3:// address; more than once for more.",
)
@click.option(
    "--requests-per-minute",
    type=click.IntRange(1),
    default=6000,
    show_default=True,
    help="Of one token, at one replica.",
)
@click.option("--jobs-per-token", type=click.IntRange(1), default=200, show_default=True, help="That have not ended.")
@click.option(
    "--uploads",
    "uploads_at_a_time",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Read at a time; others wait.",
)
@click.option("--redirect", is_flag=True, help="Answer downloads with links into the store.")
@click.option("--cors-origin", "origins", multiple=True, help="A web page's origin that may use this API.")
def serve(host: str, port: int, namespace: str, tokens: Path | None, no_auth: bool, **cli_options: Any) -> None:
    """Serve the HTTP API and its page."""
    import uvicorn

    from pipeline.clients.kubernetes import Kubernetes
    from pipeline.gateway import app
    from pipeline.gateway.dependencies import Options

    if (tokens is None) != no_auth:
        raise click.UsageError("give --tokens FOLDER, or --no-auth where nobody else can reach this service")
    options = Options(tokens=tokens, **cli_options)
    uvicorn.run(
        app.create(options, Kubernetes(namespace)),
        host=host,
        port=port,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=30,
        h11_max_incomplete_event_size=65536,
    )

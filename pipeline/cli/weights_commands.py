"""`sixview weights`: writes and verifies the manifest of a folder of weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click

from steps.io import weights_manifest
from steps.runtime.errors import StepError

FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)


@contextlib.contextmanager
def reported_errors() -> Iterator[None]:
    """Context that ends the program on a StepError with its message, its faulty files and its exit code."""
    try:
        yield
    except StepError as error:
        for fault in error.details.get("faults", []):
            click.echo(f"{fault['file']}: {fault['fault']}")
        click.echo(f"{error.code}: {error.message}\n{error.suggestion}", err=True)
        raise SystemExit(error.exit_code) from None


@click.group("weights")
def commands() -> None:
    """The weights of the engine reconviagen, which are not part of this program."""


@commands.command()
@click.argument("dir", type=FOLDER)
def verify(dir: Path) -> None:
    """Compare every file in DIR with its manifest, weights.json, by size and SHA-256."""
    with reported_errors():
        manifest = weights_manifest.check_weights(dir)
    size = sum(item["bytes"] for item in manifest["files"])
    click.echo(f"{len(manifest['files'])} files, {size / 2**20:.1f} MiB: all as in {weights_manifest.FILE}")
    for name, part in manifest["parts"].items():
        click.echo(f"{name}: {part['source']} at {part['revision']}; licence: {part['licence']}")


@commands.command()
@click.argument("dir", type=FOLDER)
@click.option(
    "--revision",
    "revisions",
    multiple=True,
    metavar="PART=REVISION",
    help="Which revision of its source a part is; may be given several times.",
)
def lock(dir: Path, revisions: tuple[str, ...]) -> None:
    """Write weights.json for the files in DIR: every file's size and SHA-256, every part's source, revision and licence."""
    revision_of = dict(pair.partition("=")[::2] for pair in revisions)
    unknown = sorted(set(revision_of) - set(weights_manifest.PARTS))
    if unknown:
        raise click.BadParameter(
            f"there is no part {', '.join(unknown)}; the parts are {', '.join(weights_manifest.PARTS)}"
        )
    with reported_errors():
        manifest = weights_manifest.lock(dir, revision_of)
    click.echo(f"{dir / weights_manifest.FILE}: {len(manifest['files'])} files")
    for name, part in manifest["parts"].items():
        if part["revision"] == weights_manifest.UNKNOWN:
            click.echo(f"{name}: its revision is not known; tell it with --revision {name}=REVISION")

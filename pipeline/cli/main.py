"""The command `sixview`."""

from __future__ import annotations

from importlib import metadata

import click

from pipeline.cli.cluster_commands import remote
from pipeline.cli.console import ErrorReportingGroup
from pipeline.cli.local_commands import local
from pipeline.cli.weights_commands import commands as weights


@click.group(
    cls=ErrorReportingGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(metadata.version("sixview"), prog_name="sixview")
def main() -> None:
    """Six views and six depth renders of an object in, a textured mesh out."""


@main.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what completes commands in a SHELL: `eval "$(sixview completion bash)"`."""
    from click.shell_completion import get_completion_class

    completion_class = get_completion_class(shell)
    if completion_class:
        click.echo(completion_class(main, {}, "sixview", "_SIXVIEW_COMPLETE").source())


for command in (*local.commands.values(), *remote.commands.values(), weights):
    main.add_command(command)

if __name__ == "__main__":
    main()

"""`calico-py speaker`: runs ExaBGP and its bridge on this node until told to stop."""

import os
import sys
from pathlib import Path

import click

from calico_py.bgp import speaker_process
from calico_py.bgp.exabgp_config import SpeakerFiles


@click.command()
@click.option(
    "--run-dir",
    type=click.Path(file_okay=False, resolve_path=True, path_type=Path),
    default=SpeakerFiles().directory,
    show_default=True,
    help="Where the agent finds the speaker: configuration, socket, memory of the announcements.",
)
def command(run_dir: Path) -> None:
    """The BGP speaker of this node: ExaBGP and its bridge. Ends when either does, to be started again."""
    try:
        speaker_process.run(SpeakerFiles(run_dir), os.environ)
    except speaker_process.SpeakerError as error:
        click.echo(f"calico-py speaker: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        where = error.filename or run_dir
        click.echo(f"calico-py speaker: {where}: {error.strerror}; free or mend its disk, it starts again", err=True)
        sys.exit(1)

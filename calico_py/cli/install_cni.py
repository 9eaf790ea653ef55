"""`calico-py install-cni`: puts the CNI executable where the container runtime of this host looks for it."""

import platform
import sys
from pathlib import Path

import click

from calico_py.cni.installer import BIN_DIRECTORY, PLUGIN, install_shim

_SHIMS = Path(sys.prefix) / "shim"


@click.command()
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=BIN_DIRECTORY,
    show_default=True,
    help="Where the runtime looks for plugins.",
)
@click.option(
    "--shims",
    type=click.Path(file_okay=False, path_type=Path),
    default=_SHIMS,
    show_default=True,
    help="Folder of the built executables, one folder for each machine (uname -m).",
)
def command(directory: Path, shims: Path) -> None:
    """Put the CNI executable in place.

    For an init container: the agent writes the network configuration itself, once it can serve pods.
    """
    shim = shims / platform.machine() / PLUGIN
    destination = directory / PLUGIN
    try:
        changed = install_shim(shim, directory)
    except FileNotFoundError:
        raise click.ClickException(
            f"{shim}: not found; the image has executables for {_known(shims)}, this host is {platform.machine()}"
        ) from None
    except OSError as error:
        raise click.ClickException(f"{destination} cannot be written: {error}") from None
    click.echo(f"{destination}: {'installed' if changed else 'is there already'}")


def _known(shims: Path) -> str:
    return ", ".join(sorted(folder.name for folder in shims.glob("*"))) or "no machine"

"""The command `calico-py`: finds the module of a subcommand when it is called, so that each starts fast."""

import importlib
import importlib.util
from typing import ClassVar

import click


class _LazyGroup(click.Group):
    """Subcommand NAME is the click command ``command`` of calico_py.cli.NAME, a hyphen being an underscore there."""

    subcommands: ClassVar[dict[str, str]] = {
        "bgp": "Sessions, paths and announcements of this node.",
        "install-cni": "Put the CNI executable in place (for an init container).",
        "ipam": "Pools, blocks and who has which address.",
        "lab": "A whole cluster on this machine.",
        "node": "The agent of this node.",
        "speaker": "The BGP speaker of this node (ExaBGP).",
        "status": "What this node does, and why.",
        "tunnel": "The userspace tunnel of this node.",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return [name for name in self.subcommands if importlib.util.find_spec(_module(name))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        found = importlib.import_module(_module(cmd_name)).command
        assert isinstance(found, click.Command)
        return found


def _module(subcommand: str) -> str:
    return f"calico_py.cli.{subcommand.replace('-', '_')}"


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="calico-py")
def main() -> None:
    """A Calico-compatible routing agent for Kubernetes."""

"""Showing how far `lab up` is: one line that changes on a terminal, plain lines elsewhere."""

import contextlib
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.status import Status

from calico_py.lab.topology import LabSpec


class Progress:
    """What lifecycle and readiness report to."""

    def __init__(self, console: Console, status: Status | None) -> None:
        self._console = console
        self._status = status

    def step(self, line: str) -> None:
        """A thing that has been made."""
        self._show(f"made {line}")

    def causes(self, causes: Mapping[str, str]) -> None:
        """What the nodes wait for."""
        waiting = {node: cause for node, cause in causes.items() if cause}
        if waiting:
            node, cause = next(iter(waiting.items()))
            ready = len(causes) - len(waiting)
            self._show(f"{ready} of {len(causes)} nodes ready; {node}: {cause.splitlines()[0]}")
        else:
            self._show(f"{len(causes)} of {len(causes)} nodes ready")

    def _show(self, line: str) -> None:
        if self._status:
            self._status.update(line)
        else:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def shown(console: Console, spec: LabSpec) -> Iterator[Progress]:
    """Progress while the block runs."""
    first = f"lab {spec.name}: nodes {spec.nodes}, subnets {spec.subnets}"
    if console.is_terminal:
        with console.status(first) as status:
            yield Progress(console, status)
    else:
        console.print(first, markup=False, highlight=False)
        yield Progress(console, None)

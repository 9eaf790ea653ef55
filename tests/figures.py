"""What benchmarks find: told at once, judged, and kept for docs/benchmarks.md.

``python -m tests.figures`` prints that page from what was kept of the latest run of each benchmark.
"""

import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

KEPT = Path(__file__).resolve().parents[1] / "build" / "benchmarks.json"

_HEAD = """\
# Benchmarks

Written by `make bench` (root; it needs the machine for itself), which fails where a figure is missed.
"Wanted" is a limit that the project has set itself; where there is none the figure is only told. "Beside" is something
else measured in the same run, call by call in turns: on a shared machine only the ratio to it means much.

The latest run of each: {machine}. The API server is always a real kube-apiserver with etcd (without fsync) on the same
machine.
For comparison, Calico's plugin of August 2026 on such a machine when idle, where ptp with host-local took 7.5 ms: ADD
92 ms, DEL 112 ms, 50 ADDs at once 3.5 s, 30 pods at once Running after 7.2 s (ptp 4.5 s).
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Attributes:
        name: what was measured.
        measured: in ``unit``.
        at_most: the limit; None where there is none.
        beside, other: what else was measured in the same run, and its value; empty for nothing.
        ratio_at_most: the limit of ``measured`` to ``other``.
    """

    name: str
    measured: float
    unit: str
    at_most: float | None = None
    beside: str = ""
    other: float = 0.0
    ratio_at_most: float | None = None

    @property
    def missed(self) -> bool:
        """Whether a limit was exceeded."""
        too_much = self.at_most is not None and self.measured > self.at_most
        return too_much or (self.ratio_at_most is not None and self.measured > self.ratio_at_most * self.other)

    def cells(self) -> tuple[str, str, str, str, str]:
        """Name, wanted, measured, beside, ratio."""
        limits = [_quantity(self.at_most, self.unit)] if self.at_most is not None else []
        limits += [f"{self.ratio_at_most:g} of {self.beside}"] if self.ratio_at_most is not None else []
        measured = _quantity(self.measured, self.unit)
        return (
            self.name,
            "at most " + " and ".join(limits) if limits else "",
            f"**{measured}: missed**" if self.missed else measured,
            f"{self.beside} {_quantity(self.other, self.unit)}" if self.beside else "",
            f"{self.measured / self.other:.2f}" if self.beside else "",
        )


def _quantity(value: float, unit: str) -> str:
    digits = f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
    return f"{digits} {unit}".strip()


@dataclass(slots=True)
class Figures:
    """Those of one benchmark."""

    title: str
    source: str
    told: list[Figure] = field(default_factory=list)

    def tell(self, figure: Figure) -> None:
        """Note it, and print it at once."""
        self.told.append(figure)
        name, wanted, measured, beside, ratio = figure.cells()
        notes = "; ".join(note for note in (wanted, beside, ratio and f"ratio {ratio}") if note)
        print(f"{name}: {measured}" + (f" ({notes})" if notes else ""), flush=True)

    def keep(self, path: Path = KEPT) -> None:
        """Write each in the place of an earlier run's."""
        kept = json.loads(path.read_text()) if path.exists() else {}
        before = {each["name"]: each for each in kept.get(self.title, {}).get("figures", ())}
        now = {figure.name: asdict(figure) for figure in self.told}
        kept[self.title] = {"source": self.source, "figures": list((before | now).values())}
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(kept, indent=1))

    def missed(self) -> list[str]:
        """The names of those that exceed their limits."""
        return [figure.name for figure in self.told if figure.missed]


def render(kept: list[Figures], machine: str) -> str:
    """The page."""
    return "\n".join([_HEAD.format(machine=machine), *(line for each in kept for line in _section(each))])


def _section(kept: Figures) -> Iterator[str]:
    yield f"## {kept.title}\n"
    yield f"`make bench ARGS={kept.source}`\n"
    yield "| figure | wanted | measured | beside | ratio |"
    yield "|---|---|---|---|---|"
    yield from (f"| {' | '.join(figure.cells())} |" for figure in kept.told)
    yield ""


def _machine() -> str:
    kernel = ".".join(platform.release().split(".")[:2])
    return f"{os.cpu_count()} shared cores, Linux {kernel}, CPython {platform.python_version()}"


if __name__ == "__main__":
    found = [
        Figures(title, kept["source"], [Figure(**each) for each in kept["figures"]])
        for title, kept in sorted(json.loads(KEPT.read_text()).items(), key=lambda item: (item[1]["source"], item[0]))
    ]
    print(render(found, _machine()), end="")

"""ADD and DEL as whole processes, shim to answer, on the real kernel; addresses come from a fake, so without IPAM.

Also a program of its own, run where the shim's paths lead: ``bench_cni.py drive SHIM`` reads one call a line (JSON:
environment and stdin) and prints the milliseconds of each.
"""

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cni.conftest import Agent
from tests.cni.runtime import Runtime, config
from tests.figures import Figure, Figures
from tests.netns.namespaces import Namespace

pytestmark = [pytest.mark.root, pytest.mark.bench]

ROOT = str(Path(__file__).resolve().parents[2])
ROUNDS = 60


def drive(shim: str) -> None:
    """Spawn the shim for each call and time it from the spawn to its end."""
    for line in sys.stdin:
        call = json.loads(line)
        stdin, feed = os.pipe()
        read, stdout = os.pipe()
        os.write(feed, call["stdin"].encode())
        os.close(feed)
        actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
        start = time.perf_counter()
        process = os.posix_spawn(shim, [shim], call["env"], file_actions=actions)
        _, status = os.waitpid(process, 0)
        took = time.perf_counter() - start
        os.close(stdout)
        assert status == 0, os.read(read, 4096)
        for descriptor in (stdin, read):
            os.close(descriptor)
        print(took * 1e3, flush=True)


def call_line(verb: str, number: int, pod: Namespace) -> str:
    env = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": f"c{number}",
        "CNI_NETNS": pod.path,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": f"K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod{number}",
    }
    return json.dumps({"env": env, "stdin": json.dumps(config())})


@pytest.mark.parametrize("families", [(4,), (4, 6)])
async def test_add_and_del(  # noqa: PLR0917 - fixtures
    agent: Agent,
    runtime: Runtime,
    shim: Path,
    new_pod: Callable[[], Namespace],
    families: tuple[int, ...],
    figures: Figures,
) -> None:
    """ADD and DEL without address management."""
    agent.families = families  # type: ignore[assignment]  # 4 and 6
    pods = [new_pod() for _ in range(ROUNDS)]
    lines = [call_line(verb, number, pod) for verb in ("ADD", "DEL") for number, pod in enumerate(pods)]
    driver = await asyncio.create_subprocess_exec(
        *runtime.enter,
        sys.executable,
        __file__,
        "drive",
        str(shim),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    out, _ = await driver.communicate("\n".join(lines).encode())
    times = [float(text) for text in out.split()]
    assert len(times) == 2 * ROUNDS
    for verb, some in (("ADD", times[:ROUNDS]), ("DEL", times[ROUNDS:])):
        what = f"{verb}, IPv{' and IPv'.join(map(str, families))}"
        figures.tell(Figure(f"{what}, best", min(some), "ms"))
        figures.tell(Figure(f"{what}, median", statistics.median(some), "ms"))


if __name__ == "__main__":
    drive(sys.argv[2])

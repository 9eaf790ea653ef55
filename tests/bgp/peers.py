"""A real ExaBGP behind `calico-py speaker`, a real BIRD, and the agent's side of the speaker, in namespaces."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

from calico_py.bgp.decide import Identity, decide
from calico_py.bgp.exabgp_config import SpeakerFiles
from calico_py.bgp.rib import AdjRibIn
from calico_py.bgp.speaker import ExaBGPSpeaker
from calico_py.model.bgp import Advertisement, LearnedRoutes, Peer, SessionState
from calico_py.model.net import Network
from calico_py.model.speaker import SpeakerEvent
from tests.netns.namespaces import Namespace

US, US6 = "10.99.0.1", "fd99::1"
THEM, THEM6 = "10.99.0.2", "fd99::2"
AS = 64512
SPEAKER = (sys.executable, "-c", "from calico_py.cli.main import main; main()", "speaker", "--run-dir")


def start(namespace: Namespace, *command: str, log: Path) -> "subprocess.Popen[bytes]":
    """A program in a namespace that does not outlive this one."""
    with log.open("ab") as out:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={namespace.path}", "--", *command],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
        )


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End it whatever it does."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)
        process.terminate()
    try:
        process.wait(8)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def children(pid: int) -> dict[int, str]:
    """Processes of which that one is the parent, with their command lines."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == pid:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


class Wire:
    """Two namespaces with a cable: ours, and theirs with as many addresses as peers are wanted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.us, self.them = Namespace(), Namespace()
        for namespace in (self.us, self.them):  # link-local addresses are usable at once
            namespace.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
        self.us.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.them.path)
        for namespace, last in ((self.us, 1), (self.them, 2)):
            namespace.run("ip", "link", "set", "lo", "up")
            self.address(namespace, last)
            namespace.run("ip", "link", "set", "eth0", "up")

    @staticmethod
    def address(namespace: Namespace, last: int) -> None:
        """Give it 10.99.0.N and fd99::N."""
        namespace.run("ip", "address", "add", f"10.99.0.{last}/24", "dev", "eth0")
        namespace.run("ip", "address", "add", f"fd99::{last}/64", "dev", "eth0", "nodad")

    def close(self) -> None:
        """Let the kernel remove both."""
        self.us.close()
        self.them.close()


class Bird:
    """A BIRD with one session to us, that injects static routes and writes what it learns into its kernel."""

    def __init__(
        self,
        wire: Wire,
        last: int = 2,
        *,
        options: str = "",
        imports: str = "import all;",
        routes: str = "",
        ours: str = US,
    ) -> None:
        self.name = f"bird{last}"
        self.wire = wire
        self.address = f"fd99::{last}" if ":" in ours else f"10.99.0.{last}"
        family = 6 if ":" in ours else 4
        self.control = wire.folder / f"{self.name}.ctl"
        self.config = wire.folder / f"{self.name}.conf"
        self.log = wire.folder / f"{self.name}.log"
        self._text = f"""
router id 10.99.0.{last};
log stderr all;
protocol device {{ scan time 10; }}
protocol kernel {{ ipv{family} {{ export where source = RTS_BGP; }}; }}
protocol static injected {{ ipv{family}; ROUTES }}
protocol bgp exa {{
  local {self.address} as {AS}; neighbor {ours} as {AS};
  strict bind on; direct; graceful restart on; connect delay time 1; connect retry time 1; error wait time 1, 2;
  OPTIONS
  ipv{family} {{ {imports} export where source = RTS_STATIC; next hop self; add paths tx; }};
}}
"""
        self.options, self.routes = options, routes
        self._process: subprocess.Popen[bytes] | None = None

    def write(self) -> None:
        """The configuration file."""
        self.config.write_text(self._text.replace("OPTIONS", self.options).replace("ROUTES", self.routes))

    def start(self, *, recover: bool = False) -> "Bird":
        """Run it; as after a graceful restart if it is to recover."""
        self.write()
        command = ("bird", "-f", "-c", str(self.config), "-s", str(self.control), *(["-R"] if recover else []))
        self._process = start(self.wire.them, *command, log=self.log)
        return self

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def inject(self, routes: str) -> None:
        """Other static routes, by a soft reconfiguration."""
        self.routes = routes
        self.write()
        self.ctl("configure", "soft")

    def ctl(self, *words: str) -> str:
        """Ask birdc(8)."""
        done = subprocess.run(
            ["birdc", "-s", str(self.control), *words], capture_output=True, text=True, check=False, timeout=10
        )
        return done.stdout

    def learned(self) -> set[str]:
        """Prefixes that it has from us."""
        lines = self.ctl("show", "route", "protocol", "exa").splitlines()
        return {line.split()[0] for line in lines if "[exa" in line and "/" in line.split()[0]}

    def number(self) -> int:
        """How many routes it has from us."""
        for line in self.ctl("show", "route", "protocol", "exa", "count").splitlines():
            words = line.split()
            if "of" in words:
                return int(words[0])
        return 0

    def session(self) -> str:
        """Since when and in which state the session is, as BIRD says it."""
        return next((line for line in self.ctl("show", "protocols").splitlines() if line.startswith("exa")), "")

    def established(self) -> float:
        """When the session came up, in seconds of the day, the last digit varying; 0 if it is not up."""
        words = self.session().split()
        if "Established" not in words:
            return 0.0
        hours, minutes, seconds = words[4].split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)

    def freeze(self) -> None:
        """It neither reads nor sends any more."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            stop(self._process)


class Node:
    """`calico-py speaker` in our namespace or theirs, started again when it ends, as a supervisor would."""

    def __init__(self, wire: Wire, *, far: bool = False) -> None:
        self.namespace = wire.them if far else wire.us
        self.files = SpeakerFiles(wire.folder / ("run-far" if far else "run"))
        self.log = wire.folder / ("speaker-far.log" if far else "speaker.log")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run it."""
        self.process = start(self.namespace, *SPEAKER, str(self.files.directory), log=self.log)

    def stop(self) -> None:
        """SIGTERM, as at an upgrade."""
        if self.process is not None:
            stop(self.process)

    @property
    def exabgp(self) -> int:
        """Process id of ExaBGP, 0 if there is none."""
        assert self.process is not None
        return next((pid for pid, line in children(self.process.pid).items() if "exabgp" in line), 0)

    @property
    def bridge(self) -> int:
        """Process id of the bridge, 0 if there is none."""
        return next((pid for pid, line in children(self.exabgp).items() if "bridge_main.py" in line), 0)


class Agent:
    """The agent's side: a speaker whose events go into a RIB."""

    def __init__(self, node: Node) -> None:
        self.speaker = ExaBGPSpeaker(node.files)
        self.rib = AdjRibIn()
        self.seen: list[SpeakerEvent] = []
        self._task: asyncio.Task[None] | None = None

    async def _run(self) -> None:
        async for event in self.speaker.events():
            self.seen.append(event)
            self.rib.handle(event, time.monotonic())

    def start(self) -> "Agent":
        """Listen."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        return self

    async def stop(self) -> None:
        """As if the agent's process had ended."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def want(self, peers: list[Peer], announced: list[str]) -> None:
        """What should be."""
        self.rib.configure(frozenset(p.address for p in peers), time.monotonic())
        self.speaker.set(
            peers=frozenset(peers),
            advertisements=frozenset(Advertisement(ip_network(nlri)) for nlri in announced),
        )

    def learned(self) -> LearnedRoutes:
        """What the decision process makes of it."""
        candidates = {nlri: self.rib.candidates(nlri) for nlri in self.rib.prefixes()}
        return decide(candidates, Identity(AS), in_sync=self.rib.in_sync)

    def routes(self) -> dict[str, list[str]]:
        """Next hops by prefix."""
        return {str(nlri): [str(hop) for hop in route.next_hops] for nlri, route in self.learned().routes.items()}

    def stale(self) -> set[Network]:
        """Prefixes that stand on stale paths."""
        return {nlri for nlri, route in self.learned().routes.items() if route.best.stale}

    def up(self, peer: str = THEM) -> bool:
        """Whether the session stands."""
        session = self.rib.sessions().get(ip_address(peer))
        return session is not None and session.state == SessionState.ESTABLISHED

    def why(self, peer: str = THEM) -> str:
        """Why it does not."""
        session = self.rib.sessions().get(ip_address(peer))
        return "" if session is None else session.last_error


def neighbour(address: str = THEM, **more: object) -> Peer:
    """A peer of ours in the mesh; BIRD connects, we wait, unless told otherwise."""
    six = ":" in address
    fields: dict[str, object] = {
        "name": "Mesh_" + address.replace(".", "_").replace(":", "_"),
        "address": ip_address(address),
        "local_address": ip_address(US6 if six else US),
        "local_as": AS,
        "peer_as": AS,
        "router_id": US,
        "passive": True,
    }
    return Peer(**(fields | more))  # type: ignore[arg-type]


async def eventually(
    check: Callable[[], object], *, within: float = 15.0, say: Callable[[], object] = lambda: ""
) -> None:
    """Wait until check is true."""
    deadline = time.monotonic() + within
    while not check():
        assert time.monotonic() < deadline, f"not so within {within} s: {say()}"
        await asyncio.sleep(0.05)


@contextmanager
def monitored(bird: Bird) -> Iterator[Callable[[], list[str]]]:
    """What happens to the routes of BIRD's kernel in the meantime: the judge of graceful restart."""
    log = bird.wire.folder / f"monitor-{time.monotonic_ns()}"
    process = start(bird.wire.them, "ip", "monitor", "route", log=log)
    time.sleep(0.3)
    try:
        yield lambda: [line for line in log.read_text().splitlines() if "proto bird" in line]
    finally:
        stop(process)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[Wire, Node, Agent]]:
    """Wire, node and agent, all gone afterwards."""
    wire = Wire(folder)
    node = Node(wire)
    agent = Agent(node)
    try:
        node.start()
        agent.start()
        yield wire, node, agent
    finally:
        await agent.stop()
        node.stop()
        wire.close()

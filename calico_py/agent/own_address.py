"""OwnAddress: which addresses this node has, looked up again whenever they may have changed, and published.

The choice itself is agent.addresses'; here is what it looks at and when.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from datetime import timedelta
from ipaddress import IPv4Interface, IPv6Interface

from calico_py.agent.addresses import Choice, Host, choose_address
from calico_py.agent.configuration.config import AgentConfig
from calico_py.agent.configuration.spellings import Method
from calico_py.agent.own_node import OWN_NODE, OwnNode
from calico_py.agent.publish import NodePublisher
from calico_py.kube.backoff import Backoff
from calico_py.model.kernel import Addr, Kernel, KernelEvent, Link, Route
from calico_py.model.names import NODE_IPV4_ADDRESS, NODE_IPV6_ADDRESS, WORKLOAD_PREFIX
from calico_py.model.net import FAMILIES, Address, Family, Interface, InvalidError, parse_address, parse_interface
from calico_py.model.store import NotFoundError, Store, StoreError
from calico_py.trouble import Trouble

log = logging.getLogger(__name__)

ANNOTATIONS: Mapping[Family, str] = {4: NODE_IPV4_ADDRESS, 6: NODE_IPV6_ADDRESS}
INTERVAL = timedelta(seconds=60)
_NO_NODE = "does not exist: set NODENAME to the name that kubectl get nodes shows"
_PROBE_PORT = 80  # Calico's can-reach connects a UDP socket to it


class OwnAddress:
    """Keeps ``choices`` current.

    Args:
        on_change: called when a choice changed; must not block.

    Attributes:
        choices: by family; empty until the first look.
        problem: why there is no address, as a sentence; empty if there is one.
    """

    def __init__(
        self,
        config: AgentConfig,
        store: Store,
        kernel: Kernel,
        publisher: NodePublisher,
        *,
        on_change: Callable[[], None],
    ) -> None:
        self.choices: Mapping[Family, Choice] = {}
        self.problem = "the node's address has not been looked up yet"
        self._config = config
        self._store = store
        self._kernel = kernel
        self._publisher = publisher
        self._on_change = on_change
        self._look = asyncio.Event()
        self._looked = asyncio.Event()
        self._node: OwnNode | None = None
        self._trouble, self._asking, self._probing, self._reading = (Trouble(log) for _ in range(4))

    def address(self, family: Family) -> Interface | None:
        """The node's address of a family."""
        choice = self.choices.get(family)
        return choice.address if choice is not None else None

    @property
    def ipv4(self) -> IPv4Interface | None:
        """The node's IPv4 address."""
        found = self.address(4)
        return found if isinstance(found, IPv4Interface) else None

    @property
    def ipv6(self) -> IPv6Interface | None:
        """The node's IPv6 address."""
        found = self.address(6)
        return found if isinstance(found, IPv6Interface) else None

    def addresses(self) -> frozenset[Address]:
        """The node's addresses of both families."""
        return frozenset(found.ip for found in map(self.address, FAMILIES) if found is not None)

    async def wait(self) -> None:
        """Return once the node's addresses have been looked up."""
        await self._looked.wait()

    def on_event(self, event: KernelEvent) -> None:
        """Addresses of the host may have changed: look again. Pods' devices have none but link-local ones."""
        match event.object:
            case Link(name=name) if name.startswith(WORKLOAD_PREFIX):
                return
            case Addr(interface=interface) if interface.ip.is_link_local:
                return
            case Link() | Addr() | None:
                self._look.set()

    async def run(self) -> None:
        """Look now, at every change, and once a minute, for ever; the API is asked once a minute."""
        loop, backoff = asyncio.get_running_loop(), Backoff()
        due = loop.time()
        while True:
            self._look.clear()
            if loop.time() >= due:
                asked = await self._ask()
                due = loop.time() + (INTERVAL.total_seconds() if asked else backoff.wait())
                if asked:
                    backoff.reset()
            if self._node is not None:
                await self._choose(self._node)
            try:
                async with asyncio.timeout_at(due):
                    await self._look.wait()
            except TimeoutError:
                continue

    async def _ask(self) -> bool:
        """Read the Node; whether it could be.

        Until it was read once nothing is chosen: without its annotation and its InternalIPs the choice might be another
        address of the host, and published as this node's.
        """
        try:
            self._node = await self._store.get(OWN_NODE, self._config.node)
        except NotFoundError:
            self._node = None
            why = "was deleted: what runs here goes on; stop this agent" if self.choices else _NO_NODE
            self._tell(f"Node {self._config.node} {why}")
            return False
        except StoreError as error:
            if self._node is None:
                self._tell(f"Node {self._config.node} cannot be read yet", error)
            else:
                self._asking.tell(f"Node {self._config.node} cannot be read, going by what was known", error)
            return False
        self._asking.over()
        return True

    async def _choose(self, node: OwnNode) -> None:
        host = await self._host(node)
        choices = {
            family: choose_address(
                self._config.addresses[family],
                self._config.methods[family],
                host,
                fam=family,
                current=self.address(family) or self._annotated(node, family),
            )
            for family in FAMILIES
        }
        found = [choice for choice in choices.values() if choice.address is not None]
        self._tell("" if found else "this node has no address: " + "; ".join(c.reason for c in choices.values()))
        if choices != self.choices:
            self.choices = choices
            for family, choice in choices.items():
                level = logging.WARNING if choice.address is not None and not choice.device else logging.INFO
                log.log(level, "IPv%d address %s: %s", family, choice.address, choice.reason)
            self._on_change()
        self._looked.set()
        self._publisher.set(
            annotations={
                ANNOTATIONS[family]: str(choice.address) if choice.address is not None else None
                for family, choice in choices.items()
            }
        )

    async def _host(self, node: OwnNode) -> Host:
        links = await self._kernel.dump(Link)
        return Host(
            links=links,
            addrs=await self._kernel.dump(Addr),
            routes=await self._kernel.dump(Route),
            internal=node.internal,
            towards={family: found for family in FAMILIES if (found := await self._towards(family)) is not None},
        )

    async def _towards(self, family: Family) -> Address | None:
        """The source address that the kernel takes towards the host of can-reach."""
        detection = self._config.methods[family]
        if detection.method != Method.CAN_REACH:
            return None
        try:
            found = await _source(family, detection.arguments[0])
        except OSError as error:
            self._probing.tell(f"{detection}, IPv{family}", error, party=str(family))
            return None
        self._probing.over(party=str(family))
        return found

    def _annotated(self, node: OwnNode, family: Family) -> Interface | None:
        text = node.meta.annotations.get(ANNOTATIONS[family], "")
        try:
            return parse_interface(text, field=ANNOTATIONS[family]) if text else None
        except InvalidError as error:
            self._reading.tell(f"Node {self._config.node}", f"{error}; it is looked up anew", party=str(family))
            return None

    def _tell(self, problem: str, cause: Exception | str = "") -> None:
        self.problem = f"{problem}: {cause}" if cause else problem
        if problem:
            self._trouble.tell(problem, cause)
        else:
            self._trouble.over()


async def _source(family: Family, host: str) -> Address:
    """The source address that the kernel takes towards a host; nothing is sent.

    Raises:
        OSError: the name is not known, or no way leads there.
    """
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    ((*_, target), *_) = await asyncio.get_running_loop().getaddrinfo(
        host, _PROBE_PORT, family=kind, type=socket.SOCK_DGRAM
    )
    with socket.socket(kind, socket.SOCK_DGRAM) as probe:
        probe.connect(target)
        return parse_address(probe.getsockname()[0], field="can-reach")

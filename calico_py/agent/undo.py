"""`calico-py node --cleanup`: takes back what the agent made on its node, in the kernel, in files and in the API."""

import asyncio
import contextlib
import logging
from pathlib import Path

from calico_py.agent.cluster.conditions import POOL_CONDITIONS, Verdict, plan_finalizers
from calico_py.agent.configuration.config import AgentConfig
from calico_py.cni.installer import PLUGIN
from calico_py.dataplane.cleanup import cleanup
from calico_py.dataplane.netlink import LinuxKernel
from calico_py.dataplane.sysctls import SysctlKeeper
from calico_py.kube.client import connect
from calico_py.kube.transport import CredentialsError
from calico_py.model.folders import RUN, STATE
from calico_py.model.kinds import NODES
from calico_py.model.names import (
    NODE_AS_NUMBER,
    NODE_IPV4_ADDRESS,
    NODE_IPV4_IPIP_TUNNEL,
    NODE_IPV6_ADDRESS,
    NODE_SENDING,
    NODE_TUNNEL_ENGINE_LABEL,
    POOL_FINALIZER,
)
from calico_py.model.net import InvalidError
from calico_py.model.store import ConflictError, NotFoundError, Store, StoreError

log = logging.getLogger(__name__)

SETTINGS = "sysctls.json"

# Seconds for which the API server is waited for: the node's own kernel is what matters.
_API_TIMEOUT = 5.0


async def undo(config: AgentConfig, *, state: Path = STATE, run: Path = RUN) -> list[str]:
    """Remove routes, devices, rules, files and the Node's annotations; put settings back.

    Blocks and addresses stay claimed in the API: they are freed when the Node is deleted.

    Args:
        config: names the node and where CNI's files are.
        state: folder of what the agent remembers.
        run: folder of its sockets.

    Returns:
        sentences about what could not be removed; empty if nothing is left.
    """
    problems = _remove_conflist(config)
    problems += await _withdraw(config)
    async with LinuxKernel(sysctl_path=Path(config.proc_sys)) as kernel:
        problems += await cleanup(kernel, SysctlKeeper(kernel, state / SETTINGS), [state, run])
    return problems


def _remove_conflist(config: AgentConfig) -> list[str]:
    """First of all, so that no pod is sent here any more; then the executable."""
    conflist = Path(config.cni_conf_dir) / config.cni_conf_name
    problems = []
    for path in (conflist, Path(config.cni_bin_dir) / PLUGIN):
        try:
            if path != conflist or PLUGIN in conflist.read_text():  # Calico's own has the same name
                path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            problems.append(f"{path} cannot be removed: {error}")
    return problems


async def _let_pools_go(store: Store) -> None:
    """Where no agent is left, nobody would end the wait for a pool's last address, nor would its CRD ever go.

    An agent that goes on to lead puts the finalizer back.
    """
    found = (await store.list(POOL_CONDITIONS)).items
    free = {pool.meta.name: Verdict(False, "", holds=False) for pool in found}
    for name, patch in plan_finalizers(found, free).items():
        with contextlib.suppress(NotFoundError, ConflictError):  # gone, or another node's cleanup was faster
            await store.patch(POOL_CONDITIONS, name, patch)


async def _withdraw(config: AgentConfig) -> list[str]:
    """Take this node's annotations back, so that the others send nothing to it, and let go of the pools."""
    annotations = dict.fromkeys((NODE_IPV4_ADDRESS, NODE_IPV6_ADDRESS, NODE_IPV4_IPIP_TUNNEL, NODE_SENDING))
    if config.as_number is not None:  # else it is not ours
        annotations[NODE_AS_NUMBER] = None
    patch = {"metadata": {"annotations": annotations, "labels": {NODE_TUNNEL_ENGINE_LABEL: None}}}
    what = f"Node {config.node}: the annotations {', '.join(annotations)} are"
    try:
        async with asyncio.timeout(_API_TIMEOUT), connect(config.kubeconfig) as store:
            with contextlib.suppress(NotFoundError):
                await store.patch(NODES, config.node, patch)
            what = f"IPPools: the finalizer {POOL_FINALIZER} is"
            with contextlib.suppress(NotFoundError):
                await _let_pools_go(store)
    except (StoreError, CredentialsError, InvalidError, TimeoutError) as error:
        cause = str(error) or "the API server did not answer"
        return [f"{what} still there: {cause}"]
    return []

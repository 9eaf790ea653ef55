"""The agent as a process: runs it to its end, and says in sentences why it could not begin or go on."""

import asyncio
import errno
import logging
import socket
from collections.abc import Iterator

from calico_py.agent.configuration.config import AgentConfig
from calico_py.agent.main import run
from calico_py.agent.preflight import ForeignCalicoError
from calico_py.agent.status.health import ListenError
from calico_py.kube.transport import CredentialsError

log = logging.getLogger(__name__)

_ADVICE = {
    errno.EMFILE: "raise the agent's limit of open files (ulimit -n)",
    errno.ENFILE: "raise the node's limit of open files (fs.file-max)",
    errno.ENOMEM: "raise the agent's memory limit, or free the node's memory",
    errno.ENOBUFS: "raise the agent's memory limit, or free the node's memory",
    errno.ENOSPC: "free the disk",
}


def run_to_end(config: AgentConfig, calls: socket.socket) -> list[str]:
    """Run the agent until SIGTERM or SIGINT; why it could not begin or go on, each a sentence.

    Args:
        config: what it is told.
        calls: the socket of the CNI executable, which listens.
    """
    problems: list[str] = []
    try:
        asyncio.run(run(config, calls))
    except* (CredentialsError, ForeignCalicoError, ListenError) as errors:
        problems += _sentences(errors)
    except* OSError as errors:
        log.debug("the system's refusal", exc_info=errors)
        problems += _sentences(errors)
    return problems


def _sentences(group: BaseExceptionGroup[Exception]) -> Iterator[str]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _sentences(error)
        elif isinstance(error, OSError):
            what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
            advice = _ADVICE.get(
                error.errno or 0, "if that repeats, see the kernel's log (dmesg), or set CALICO_PY_LOG_LEVEL=debug"
            )
            yield f"the agent ends, to be started again, as the system refuses what it needs: {what}; {advice}"
        else:
            yield str(error)

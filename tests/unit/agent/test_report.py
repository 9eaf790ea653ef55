"""What readiness says of the receiver."""

import pytest

from calico_py.agent.receiver import Phase, Receiver
from calico_py.agent.status.report import why_not_receiving
from calico_py.dataplane.ipip import Engine, IPIPStatus
from calico_py.model.names import IPIP_DEVICE

UP = Receiver(Phase.UP)


@pytest.mark.parametrize(
    ("receiver", "running", "announced", "says"),
    [
        (Receiver(Phase.DOWN), False, False, ""),
        (UP, True, True, ""),
        (UP, True, False, "tunl0 has no address yet"),
        (UP, False, True, "what other nodes send to it is lost"),
    ],
)
def test_the_cause_is_named(receiver: Receiver, running: bool, announced: bool, says: str) -> None:
    ipip = IPIPStatus(Engine.USERSPACE, "", 5, up=True, running=running)
    found = why_not_receiving(receiver, ipip, announced, "")
    assert bool(found) == bool(says)
    assert says in found
    assert not found or IPIP_DEVICE in found

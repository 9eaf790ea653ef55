"""kubectl, unmodified, does everything that people do with it, on both servers alike."""

from typing import Any

from tests.contract.servers import Kubectl


def pool(name: str = "p1", **spec: Any) -> dict[str, Any]:
    """An IPPool manifest."""
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": "IPPool",
        "metadata": {"name": name},
        "spec": {"cidr": "10.244.0.0/16"} | spec,
    }


def test_apply_creates_changes_and_leaves_alone(kubectl: Kubectl) -> None:
    assert kubectl("apply", "-f-", stdin=pool(ipipMode="Always")).stdout == "ippool.projectcalico.org/p1 created\n"
    assert kubectl("apply", "-f-", stdin=pool(ipipMode="Always")).stdout == "ippool.projectcalico.org/p1 unchanged\n"
    assert kubectl("apply", "-f-", stdin=pool(ipipMode="Never")).stdout == "ippool.projectcalico.org/p1 configured\n"
    assert kubectl.json("get", "ippool", "p1")["spec"]["ipipMode"] == "Never"

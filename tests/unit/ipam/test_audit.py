"""Each contradiction is found and explained, a sound cluster has none, and numbers add up."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from calico_py.cli.ipam_plan import plan_garbage
from calico_py.ipam.audit import Cluster, audit
from calico_py.ipam.census import use_of_addresses, use_of_blocks, use_of_pools
from calico_py.ipam.garbage import PodView, View
from calico_py.ipam.requests import AssignRequest, Tunnel
from calico_py.model.blocks import AffinityState, IPAMBlock, IPAMConfiguration, IPAMHandle
from calico_py.model.meta import Meta
from calico_py.model.pools import EncapMode
from tests.fakes.ipam import IPAMCluster, pool

FOUR = pool("10.0.0.0/24", name="four", ipip_mode=EncapMode.ALWAYS)
Change = Callable[[Cluster], Cluster]


@pytest.fixture
async def sound() -> Cluster:
    """Two nodes, a pod on each, one that borrows, a tunnel and warm addresses."""
    cluster = IPAMCluster([FOUR])
    pods = {}
    for node in ("node1", "node2"):
        allocator = cluster.node(node)
        (got,) = await allocator.assign(
            AssignRequest(f"k8s-pod-network.of-{node}", {"namespace": "shop", "pod": f"web-{node}"})
        )
        pods["shop", f"web-{node}"] = PodView(node, frozenset({got.address}))
        await allocator.reserve(f"calico-py-warm-{node}", 4, lambda _own: 3)
        await allocator.ensure_tunnel_address(Tunnel.IPIP)
        await allocator.drain()
    (lent,) = [b.cidr for b in await cluster.blocks() if b.node == "node2"]
    borrower = cluster.node("node1")
    wanted = lent[60]
    await borrower.assign(
        AssignRequest("k8s-pod-network.lent", {"namespace": "shop", "pod": "lent"}, requested=(wanted,))
    )
    await borrower.drain()
    pods["shop", "lent"] = PodView("node1", frozenset({wanted}))
    pods["shop", "starting"] = PodView("node1")
    pods["shop", "done"] = PodView("node1", frozenset({ip_address("10.0.0.250")}), finished=True)
    view = View(
        await cluster.blocks(),
        ["node1", "node2"],
        pods,
        list((await cluster.handles()).values()),
        await cluster.affinities(),
    )
    return Cluster(view, [FOUR])


def test_a_sound_cluster_has_no_finding_warm_addresses_or_not(sound: Cluster) -> None:
    assert audit(sound) == []


def views(**fields: Callable[[View], Any]) -> Change:
    return lambda c: replace(c, view=replace(c.view, **{key: change(c.view) for key, change in fields.items()}))


def first_block(**fields: Any) -> Change:
    def change(view: View) -> list[IPAMBlock]:
        first, *others = view.blocks
        return [replace(first, **fields), *others]

    return views(blocks=change)


def pods_with(*name: str, pod: PodView | None) -> Change:
    def change(view: View) -> dict[Any, PodView]:
        rest = {key: value for key, value in view.pods.items() if key != ("shop", name[0])}
        return rest | ({("shop", name[0]): pod} if pod is not None else {})

    return views(pods=change)


def stolen(cluster: Cluster) -> Cluster:
    """A second pod reports the first one's address."""
    view = cluster.view
    return replace(cluster, view=replace(view, pods={**view.pods, ("shop", "zz"): view.pods["shop", "web-node1"]}))


CHANGES: dict[str, tuple[Change, set[str]]] = {
    "a pod that is gone": (pods_with("web-node1", pod=None), {"Leaked"}),
    "a pod on another node": (
        pods_with("web-node1", pod=PodView("node2", frozenset({ip_address("10.9.9.9")}))),
        {"Leaked", "Unassigned"},
    ),
    "a pod that has finished": (pods_with("web-node1", pod=PodView("node1", finished=True)), {"Leaked"}),
    "a node that is gone": (views(nodes=lambda _: ["node2"]), {"Leaked", "NodeGone"}),
    "two pods with one address": (stolen, {"AddressTwice", "OthersAddress"}),
    "no pool": (lambda c: replace(c, pools=[]), {"NoPool"}),
    "a pool of another block size": (lambda c: replace(c, pools=[replace(FOUR, block_size=27)]), {"BlockSize"}),
    "pools that overlap": (
        lambda c: replace(c, pools=[FOUR, pool("10.0.0.0/16", name="wide")]),
        {"PoolsOverlap"},
    ),
    "a free ordinal in use": (first_block(unallocated=(0, 0)), {"Arithmetic"}),
    "a block marked deleted": (first_block(deleted=True), {"HalfDeleted", "NoBlock", "HandleDiffers", "Unassigned"}),
    "a block of nobody's claim": (views(affinities=lambda _: []), {"NoAffinity"}),
    "a claim that is pending": (
        views(affinities=lambda v: [replace(a, state=AffinityState.PENDING) for a in v.affinities]),
        {"Unsettled"},
    ),
    "a claim of another's block": (
        views(affinities=lambda v: [replace(a, node="node1") for a in v.affinities]),
        {"OtherOwner", "NoAffinity"},
    ),
    "no handles": (views(handles=lambda _: []), {"NoHandle"}),
    "a handle of nothing": (
        views(handles=lambda v: [*v.handles, IPAMHandle(Meta("x"), "x", {ip_network("10.0.0.0/26"): 1})]),
        {"HandleDiffers"},
    ),
    "a label that a foreign writer dropped": (
        views(blocks=lambda v: [replace(b, meta=replace(b.meta, labels={})) for b in v.blocks]),
        {"BorrowedLabel"},
    ),
    "an object that cannot be read": (
        lambda c: replace(c, invalid=[("IPAMBlock", "b", "spec.cidr: found 'x'")]),
        {"Invalid"},
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_contradiction_is_found_and_says_what_to_do(sound: Cluster, name: str) -> None:
    change, reasons = CHANGES[name]
    found = audit(change(sound))
    assert {finding.reason for finding in found} == reasons
    for finding in found:
        assert finding.kind
        assert finding.name
        assert len(finding.message) > 20


def test_nothing_is_concluded_from_a_block_that_cannot_be_read(sound: Cluster) -> None:
    """Its pods, handles and claim look as if nobody had given what they have."""
    (unread, *others) = sorted(sound.view.blocks, key=lambda block: block.meta.name)
    view = replace(sound.view, blocks=others)
    assert {finding.reason for finding in audit(replace(sound, view=view))} >= {
        "NoBlock",
        "Unassigned",
        "HandleDiffers",
    }
    told = audit(Cluster(replace(view, complete=False), [FOUR], [("IPAMBlock", unread.meta.name, "spec.cidr: no")]))
    assert [(finding.reason, finding.name) for finding in told] == [("Invalid", unread.meta.name)]
    assert "delete the pods that have its addresses, then the block" in told[0].message


def test_the_numbers_add_up(sound: Cluster) -> None:
    (four,) = use_of_pools(sound.view.blocks, sound.pools)
    assert (four.name, four.size, four.blocks, four.in_use, four.warm, four.cooling) == ("four", 256, 2, 5, 6, 0)
    assert four.free == 256 - 11
    blocks = use_of_blocks(sound.view.blocks, sound.pools)
    assert sum(block.borrowed for block in blocks) == 1
    assert {block.node for block in blocks} == {"node1", "node2"}
    addresses = list(use_of_addresses(sound.view.blocks, sound.pools))
    assert sorted(a.owner for a in addresses if a.state == "in use") == [
        "ipipTunnelAddress",
        "ipipTunnelAddress",
        "shop/lent",
        "shop/web-node1",
        "shop/web-node2",
    ]


def test_a_dry_run_says_what_goes_now_and_what_later_and_why(sound: Cluster) -> None:
    config, now = IPAMConfiguration(Meta("default")), IPAMCluster([FOUR]).now + timedelta(hours=1)

    def plan(view: View) -> list[dict[str, Any]]:
        return plan_garbage(view, config, now=now, grace=timedelta(minutes=15))

    assert plan(sound.view) == []
    gone = pods_with("web-node1", pod=None)(sound)
    (leak,) = plan(gone.view)
    assert leak["when"] == "after the grace period"
    assert "pod shop/web-node1, which does not exist" in leak["why"]
    lost = plan(replace(sound.view, nodes=["node2"]))
    assert {row["when"] for row in lost if row["what"].startswith("address")} == {"now"}
    assert any("calico-py-warm-node1" in row["why"] for row in lost)

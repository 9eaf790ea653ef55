"""Whatever is assigned, released, handed over and waited for: every part of the block agrees with the rest."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from calico_py.ipam import blocks
from calico_py.model.blocks import Attribute, IPAMBlock
from calico_py.model.kinds import IPAM_BLOCKS
from calico_py.model.net import Network

START = datetime(2026, 5, 4, 12, tzinfo=UTC)
OWNERS = [
    Attribute(f"k8s-pod-network.{name}", {"node": node, "pod": name, "namespace": "default"})
    for name in "abc"
    for node in ("mine", "other")
]


class BlockMachine(RuleBasedStateMachine):
    """A block beside a model of it: who holds what, which ordinals cool down until when, and the queue of the free."""

    def __init__(self) -> None:
        super().__init__()
        self.cidr: Network = ip_network("10.0.0.16/28")
        self.now = START
        self.cooldown = timedelta(0)
        self.block: IPAMBlock = blocks.new_block(self.cidr, node="mine", now=self.now)
        self.held: dict[int, Attribute] = {}
        self.cooling: dict[int, datetime] = {}
        self.queue: list[int] = list(range(16))
        self.sequences: set[tuple[int, int]] = set()

    @rule(seconds=st.integers(0, 40))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(cooldown=st.sampled_from([0, 30]))
    def configure(self, cooldown: int) -> None:
        self.cooldown = timedelta(seconds=cooldown)

    @rule(owner=st.sampled_from(OWNERS), count=st.integers(1, 5), skip=st.booleans())
    def assign_next(self, owner: Attribute, count: int, *, skip: bool) -> None:
        reserved = [ip_network("10.0.0.16/30")] if skip else []
        expected = [o for o in self.queue if not (skip and o < 4)][:count]
        after, taken = blocks.assign_next(self.block, count, owner, reserved=reserved)
        assert list(taken) == expected
        self._given(after, expected, owner)

    @rule(owner=st.sampled_from(OWNERS), data=st.data())
    def assign_at(self, owner: Attribute, data: st.DataObject) -> None:
        if self.queue:
            ordinal = data.draw(st.sampled_from(self.queue))
            self._given(blocks.assign_at(self.block, ordinal, owner), [ordinal], owner)

    @precondition(lambda self: self.held)
    @rule(owner=st.sampled_from(OWNERS), data=st.data())
    def reassign(self, owner: Attribute, data: st.DataObject) -> None:
        ordinal = data.draw(st.sampled_from(sorted(self.held)))
        self._given(blocks.reassign(self.block, [ordinal], owner), [ordinal], owner)

    @rule(ordinals=st.sets(st.integers(0, 15), max_size=4))
    def release(self, ordinals: set[int]) -> None:
        due = sorted(ordinals & self.held.keys())
        self.block = blocks.release(self.block, ordinals, now=self.now, cooldown=self.cooldown)
        for ordinal in due:
            del self.held[ordinal]
            if self.cooldown:
                self.cooling[ordinal] = self.now
            else:
                self.queue.append(ordinal)

    @rule()
    def thaw(self) -> None:
        self.block = blocks.thaw(self.block, now=self.now, cooldown=self.cooldown)
        due = sorted((at, o) for o, at in self.cooling.items() if at + self.cooldown <= self.now)
        for _, ordinal in due:
            del self.cooling[ordinal]
            self.queue.append(ordinal)

    @rule()
    def write(self) -> None:
        before = self.block
        after = blocks.sealed(before)
        assert after.sequence_number == before.sequence_number + 1
        self.block = IPAM_BLOCKS.decode(IPAM_BLOCKS.encode(after))
        assert self.block == after, "what is written is what is read"

    def _given(self, after: IPAMBlock, ordinals: list[int], owner: Attribute) -> None:
        self.block = blocks.sealed(after)
        for ordinal in ordinals:
            self.held[ordinal] = owner
            if ordinal in self.queue:
                self.queue.remove(ordinal)
            found = blocks.allocation_at(self.block, ordinal)
            assert found is not None
            assert (ordinal, found.sequence) not in self.sequences, "no allocation repeats a sequence number"
            self.sequences.add((ordinal, found.sequence))

    @invariant()
    def consistent(self) -> None:
        assert blocks.block_problems(self.block) == []

    @invariant()
    def as_the_model(self) -> None:
        held = {a.ordinal: a.attribute for a in blocks.allocations(self.block) if not a.cooling}
        assert held == self.held
        assert {a.ordinal for a in blocks.allocations(self.block) if a.cooling} == self.cooling.keys()
        assert list(self.block.unallocated) == self.queue
        assert blocks.free_count(self.block) == len(self.queue)
        assert blocks.is_empty(self.block) == (not self.held and not self.cooling)
        lent = {o for o, owner in self.held.items() if owner.secondary["node"] == "other"}
        assert {a.ordinal for a in blocks.borrowed(self.block)} == lent


TestBlockMachine = BlockMachine.TestCase
TestBlockMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

"""The environment's pools: what is made, and how the three-way merge treats the environment, the pool and a person."""

import asyncio
import dataclasses
import json
from ipaddress import IPv6Network, ip_address, ip_network
from typing import Any

import pytest

from calico_py.agent.configuration.config import PoolSettings, load_config
from calico_py.agent.pool_writer import read_cluster_cidrs, write_default_pools
from calico_py.agent.pools import PoolPlan, Surroundings, choose_ipv4_cidr, plan_default_pools, ula
from calico_py.model.intent import Problem
from calico_py.model.kinds import IP_POOLS
from calico_py.model.meta import Meta
from calico_py.model.names import POOL_FROM_ENV
from calico_py.model.pools import AllowedUse, EncapMode, IPPool
from calico_py.model.store import ConflictError, RefusedError
from tests.fakes.store import MemoryStore

ULA = IPv6Network("fd01:203:405::/48")
SOMEWHERE = Surroundings(addresses=(), ipv6=False, random_ula=lambda: ULA)
SOMEWHERE_V6 = dataclasses.replace(SOMEWHERE, ipv6=True)


def settings(**environ: str) -> tuple[PoolSettings, ...]:
    return load_config(environ, hostname="node1").pools


def plan(
    existing: list[IPPool], generation: int = 0, surroundings: Surroundings = SOMEWHERE, **environ: str
) -> PoolPlan:
    return plan_default_pools(existing, settings(**environ), generation=generation, surroundings=surroundings)


def made(generation: int = 1, **environ: str) -> IPPool:
    (pool,) = plan([], generation, SOMEWHERE, **environ).creations
    return pool


def patched(pool: IPPool, by: PoolPlan) -> IPPool:
    """The pool after the plan's merge patch, as the API server would store it."""
    (patch,) = by.patches
    body: dict[str, Any] = IP_POOLS.encode(pool)
    body["spec"].update(patch.patch.get("spec", {}))
    body["metadata"]["annotations"].update(patch.patch["metadata"]["annotations"])
    return IP_POOLS.decode(body)


class TestCreation:
    def test_nothing_set(self) -> None:
        v4, v6 = plan([], surroundings=SOMEWHERE_V6).creations
        assert (v4.name, str(v4.cidr), v4.ipip_mode) == ("default-ipv4-ippool", "192.168.0.0/16", EncapMode.NEVER)
        assert (v4.nat_outgoing, v4.block_size) == (True, 26)
        assert (v6.name, v6.cidr, v6.nat_outgoing, v6.block_size) == ("default-ipv6-ippool", ULA, False, 122)

    def test_no_ipv6_pool_without_ipv6_unless_asked(self) -> None:
        assert len(plan([]).creations) == 1
        assert len(plan([], CALICO_IPV6POOL_CIDR="fd00:10::/48").creations) == 2

    def test_the_environment_s_values_and_their_record(self) -> None:
        pool = made(7, CALICO_IPV4POOL_CIDR="10.244.0.0/16", CALICO_IPV4POOL_IPIP="always")
        assert (str(pool.cidr), pool.ipip_mode) == ("10.244.0.0/16", EncapMode.ALWAYS)
        record = json.loads(pool.meta.annotations[POOL_FROM_ENV])
        assert record["generation"] == 7
        assert record["spec"]["ipipMode"] == "Always"

    def test_a_pool_of_another_name_keeps_the_family_from_being_made(self) -> None:
        mine = IPPool(Meta("mine"), ip_network("10.0.0.0/16"))
        six = IPPool(Meta("six"), ip_network("fd00:10::/48"))
        assert plan([mine], surroundings=SOMEWHERE_V6).creations[0].cidr.version == 6
        assert plan([mine, six], surroundings=SOMEWHERE_V6) == PoolPlan()

    def test_a_pool_for_load_balancers_is_none_for_pods(self) -> None:
        pool = IPPool(Meta("lb"), ip_network("10.0.0.0/24"), allowed_uses=(AllowedUse.LOAD_BALANCER,))
        assert len(plan([pool]).creations) == 1

    def test_kubeadm_s_network_comes_before_our_own_choice(self) -> None:
        told = dataclasses.replace(SOMEWHERE_V6, cluster_cidrs=(ip_network("fd00:77::/56"), ip_network("10.77.0.0/16")))
        v4, v6 = plan([], surroundings=told).creations
        assert (str(v4.cidr), str(v6.cidr)) == ("10.77.0.0/16", "fd00:77::/56")
        assert str(plan([], surroundings=told, CALICO_IPV4POOL_CIDR="10.1.0.0/16").creations[0].cidr) == "10.1.0.0/16"

    @pytest.mark.parametrize(
        ("addresses", "cidr"),
        [
            (["10.0.0.1"], "192.168.0.0/16"),
            (["192.168.1.1"], "172.16.0.0/16"),
            (["192.168.1.1", "172.16.0.1", "172.18.0.1"], "172.17.0.0/16"),
            (["192.168.1.1", *(f"172.{n}.0.1" for n in range(16, 32)), "fd00::1"], "192.168.0.0/16"),
        ],
    )
    def test_the_range_avoids_the_host_s_addresses(self, addresses: list[str], cidr: str) -> None:
        assert str(choose_ipv4_cidr(map(ip_address, addresses))) == cidr

    def test_a_random_ula(self) -> None:
        assert ula(bytes([1, 2, 3, 4, 5])) == ULA


class TestMerge:
    def test_an_unchanged_environment_changes_nothing(self) -> None:
        pool = made(1, CALICO_IPV4POOL_IPIP="Always")
        assert plan([pool], 1, CALICO_IPV4POOL_IPIP="Always") == PoolPlan()

    def test_a_newer_environment_changes_the_field(self) -> None:
        pool = made(1, CALICO_IPV4POOL_IPIP="Always")
        found = plan([pool], 2, CALICO_IPV4POOL_IPIP="Never")
        assert "Always becomes Never (CALICO_IPV4POOL_IPIP)" in found.patches[0].changes[0]
        assert patched(pool, found).ipip_mode == EncapMode.NEVER
        assert plan([patched(pool, found)], 2, CALICO_IPV4POOL_IPIP="Never") == PoolPlan()

    def test_the_patch_is_conditional(self) -> None:
        pool = dataclasses.replace(made(1), meta=dataclasses.replace(made(1).meta, resource_version="42"))
        (patch,) = plan([pool], 2, CALICO_IPV4POOL_IPIP="Always").patches
        assert patch.patch["metadata"]["resourceVersion"] == "42"

    def test_a_variable_that_is_taken_away_is_a_change_to_its_default(self) -> None:
        pool = made(1, CALICO_IPV4POOL_IPIP="Always")
        assert patched(pool, plan([pool], 2)).ipip_mode == EncapMode.NEVER

    def test_an_older_environment_never_overrides_a_newer(self) -> None:
        pool = made(1, CALICO_IPV4POOL_IPIP="Always")
        pool = patched(pool, plan([pool], 2, CALICO_IPV4POOL_IPIP="Never"))
        assert plan([pool], 1, CALICO_IPV4POOL_IPIP="Always") == PoolPlan()

    def test_a_late_start_of_a_rollout_that_was_undone_changes_nothing(self) -> None:
        pool = made(1, CALICO_IPV4POOL_IPIP="Always")
        pool = patched(pool, plan([pool], 3, CALICO_IPV4POOL_IPIP="Always"))
        assert plan([pool], 2, CALICO_IPV4POOL_IPIP="Never") == PoolPlan()

    def test_a_person_s_edit_wins_and_is_told(self) -> None:
        pool = dataclasses.replace(made(1, CALICO_IPV4POOL_IPIP="Always"), ipip_mode=EncapMode.CROSS_SUBNET)
        found = plan([pool], 1, CALICO_IPV4POOL_IPIP="Always")
        assert not found.patches
        (told,) = found.differences
        assert told.name == "default-ipv4-ippool"
        assert "spec.ipipMode is CrossSubnet, CALICO_IPV4POOL_IPIP is Always" in told.message
        found = plan([pool], 2, CALICO_IPV4POOL_IPIP="Never")
        assert patched(pool, found).ipip_mode == EncapMode.CROSS_SUBNET
        assert len(found.differences) == 1

    def test_an_edit_of_one_field_leaves_the_others_to_the_environment(self) -> None:
        pool = dataclasses.replace(made(1), nat_outgoing=False)
        found = plan([pool], 2, CALICO_IPV4POOL_IPIP="Always")
        after = patched(pool, found)
        assert (after.ipip_mode, after.nat_outgoing) == (EncapMode.ALWAYS, False)
        assert [problem.message.split()[2] for problem in found.differences] == ["spec.natOutgoing"]

    def test_an_edit_that_is_taken_back_gives_the_field_back(self) -> None:
        pool = made(1, CALICO_IPV4POOL_IPIP="Always")
        edited = dataclasses.replace(pool, ipip_mode=EncapMode.NEVER)
        edited = patched(edited, plan([edited], 2, CALICO_IPV4POOL_IPIP="CrossSubnet"))
        restored = dataclasses.replace(edited, ipip_mode=EncapMode.ALWAYS)
        assert patched(restored, plan([restored], 3, CALICO_IPV4POOL_IPIP="CrossSubnet")).ipip_mode == "CrossSubnet"

    def test_an_environment_that_agrees_with_an_edit_owns_the_field_again(self) -> None:
        pool = dataclasses.replace(made(1), ipip_mode=EncapMode.ALWAYS)
        pool = patched(pool, plan([pool], 2, CALICO_IPV4POOL_IPIP="Always"))
        assert patched(pool, plan([pool], 3, CALICO_IPV4POOL_IPIP="Never")).ipip_mode == EncapMode.NEVER

    def test_without_generations_the_last_start_counts(self) -> None:
        pool = made(0, CALICO_IPV4POOL_IPIP="Always")
        pool = patched(pool, plan([pool], 0, CALICO_IPV4POOL_IPIP="Never"))
        assert pool.ipip_mode == EncapMode.NEVER

    def test_one_node_s_own_environment_of_the_same_generation_is_told_not_obeyed(self) -> None:
        pool = made(4, CALICO_IPV4POOL_IPIP="Always")
        for generation in (4, 0):
            found = plan([pool], generation, CALICO_IPV4POOL_IPIP="Never")
            assert not found.patches
            assert "template generation 4" in found.differences[0].message

    def test_what_cannot_be_changed_is_told(self) -> None:
        pool = made(1)
        found = plan([pool], 2, CALICO_IPV4POOL_CIDR="10.0.0.0/16", CALICO_IPV4POOL_BLOCK_SIZE="25")
        assert "spec" not in found.patches[0].patch
        assert [problem.message.split()[2] for problem in found.differences] == ["spec.cidr", "spec.blockSize"]
        assert all("cannot be changed" in problem.message for problem in found.differences)

    def test_a_record_that_cannot_be_read_changes_nothing(self) -> None:
        pool = dataclasses.replace(made(1), meta=Meta("default-ipv4-ippool", annotations={POOL_FROM_ENV: "{"}))
        found = plan([pool], 2, CALICO_IPV4POOL_IPIP="Always")
        assert patched(pool, found).ipip_mode == EncapMode.NEVER
        assert found.differences

    def test_a_pool_that_people_made_wins_and_only_explicit_values_are_told(self) -> None:
        pool = IPPool(Meta("default-ipv4-ippool"), ip_network("10.0.0.0/16"), ipip_mode=EncapMode.ALWAYS)
        assert plan([pool]) == PoolPlan()
        found = plan([pool], CALICO_IPV4POOL_IPIP="Never")
        assert not found.patches
        assert "the environment has not made this pool" in found.differences[0].message


class TestWriter:
    async def test_two_nodes_at_once_make_one_pool(self) -> None:
        store = MemoryStore()

        async def start(seed: int) -> tuple[Problem, ...]:
            around = dataclasses.replace(SOMEWHERE_V6, random_ula=lambda: ula(bytes([seed] * 5)))
            return await write_default_pools(store, settings(), generation=1, surroundings=around)

        assert await asyncio.gather(start(1), start(2)) == [(), ()]  # type: ignore[comparison-overlap]  # gather gives a list
        pools = (await store.list(IP_POOLS)).items
        assert [pool.name for pool in pools] == ["default-ipv4-ippool", "default-ipv6-ippool"]

    async def test_a_racing_change_is_looked_at_again(self) -> None:
        store = MemoryStore()
        await write_default_pools(store, settings(), generation=1, surroundings=SOMEWHERE)
        conflicts = [ConflictError("changed"), ConflictError("changed")]

        def fault(when: str, verb: str, _kind: str, _name: str) -> None:
            if (when, verb) == ("before", "patch") and conflicts:
                raise conflicts.pop()

        never = settings(CALICO_IPV4POOL_IPIP="Always")
        await write_default_pools(store.with_fault(fault), never, generation=2, surroundings=SOMEWHERE)
        assert (await store.get(IP_POOLS, "default-ipv4-ippool")).ipip_mode == EncapMode.ALWAYS

    async def test_a_kill_between_the_write_and_its_answer_is_finished_by_the_next_start(self) -> None:
        store = MemoryStore()

        def fault(when: str, verb: str, _kind: str, _name: str) -> None:
            if (when, verb) == ("after", "create"):
                raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await write_default_pools(store.with_fault(fault), settings(), generation=1, surroundings=SOMEWHERE_V6)
        assert len((await store.list(IP_POOLS)).items) == 1
        await write_default_pools(store, settings(), generation=1, surroundings=SOMEWHERE_V6)
        assert len((await store.list(IP_POOLS)).items) == 2

    async def test_what_the_server_refuses_is_told(self) -> None:
        def fault(when: str, verb: str, _kind: str, _name: str) -> None:
            if (when, verb) == ("before", "create"):
                raise RefusedError("create IPPool default-ipv4-ippool: forbidden")

        (told,) = await write_default_pools(
            MemoryStore().with_fault(fault), settings(), generation=1, surroundings=SOMEWHERE
        )
        assert "forbidden" in told.message

    async def test_no_kubeadm_no_cluster_cidrs(self) -> None:
        assert await read_cluster_cidrs(MemoryStore()) == ()

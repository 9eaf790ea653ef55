"""A file that cannot be written is tried again and ends no agent: pods that run need it."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from calico_py.agent.main import _install_conflist
from calico_py.agent.network_condition import NetworkCondition
from calico_py.cni.installer import CONFLIST
from calico_py.model.kinds import NODES
from calico_py.model.meta import Meta
from calico_py.model.nodes import Node
from tests.fakes.store import MemoryStore
from tests.fakes.waiting import until


async def test_the_network_configuration_is_written_once_it_can_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "net.d"
    folder.touch()  # as good as a full disk, also for root
    config = SimpleNamespace(cni_conf_dir=str(folder), cni_bin_dir=str(tmp_path), cni_conf_name=CONFLIST)
    agent = cast("Any", SimpleNamespace(not_ready=str, config=config))
    task = asyncio.create_task(_install_conflist(agent))
    await until(lambda: "cannot be written" in caplog.text)
    assert not task.done()
    assert str(folder / CONFLIST) in caplog.text
    folder.unlink()
    await asyncio.wait_for(task, 10)
    assert "calico-py" in (folder / CONFLIST).read_text()


async def test_the_mark_of_a_node_that_was_ready_is_missed_by_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    await store.create(NODES, Node(Meta("node1")))
    (tmp_path / "run").touch()
    part = NetworkCondition(store, "node1", not_ready=list, marker=tmp_path / "run" / "ready")
    await asyncio.wait_for(part.run(), 10)
    assert "cannot be written" in caplog.text

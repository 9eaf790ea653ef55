"""`calico-py node --cleanup` on a node with everything on it: kernel, files and API end as they were before."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from calico_py.agent.configuration.config import AgentConfig, load_config
from calico_py.agent.undo import undo
from calico_py.model.names import NODE_IPV4_ADDRESS, NODE_SENDING, NODE_TUNNEL_ENGINE_LABEL, POOL_FINALIZER
from tests.netns.namespaces import Namespace, host_namespace

_POOLS = "/apis/projectcalico.org/v3/ippools"

pytestmark = pytest.mark.root


@asynccontextmanager
async def api(received: list[Any]) -> AsyncIterator[str]:
    """The address of an API server that takes patches of nodes."""

    async def patch(request: web.Request) -> web.Response:
        received.append(await request.json())
        return web.json_response({"metadata": {"name": request.match_info["name"]}})

    async def pools(_: web.Request) -> web.Response:
        meta = {"name": "pool", "resourceVersion": "7", "finalizers": ["example.org/other", POOL_FINALIZER]}
        return web.json_response({"metadata": {"resourceVersion": "8"}, "items": [{"metadata": meta}]})

    app = web.Application()
    app.router.add_patch("/api/v1/nodes/{name}", patch)
    app.router.add_get(_POOLS, pools)
    app.router.add_patch(_POOLS + "/{name}", patch)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


def configure(folder: Path, url: str) -> AgentConfig:
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(
        "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c}}], "
        f"clusters: [{{name: c, cluster: {{server: '{url}'}}}}]}}"
    )
    settings = {
        "KUBECONFIG": str(kubeconfig),
        "CALICO_PY_CNI_BIN_DIR": str(folder / "bin"),
        "CALICO_PY_CNI_CONF_DIR": str(folder / "net.d"),
    }
    return load_config(settings, hostname="node1")


def furnish(host: Namespace, folder: Path, conflist: str) -> None:
    for name in ("bin", "net.d", "state", "run"):
        (folder / name).mkdir()
    (folder / "bin" / "calico-py").touch()
    (folder / "bin" / "bridge").touch()
    (folder / "net.d" / "10-calico.conflist").write_text(conflist)
    (folder / "state" / "journal").touch()
    host.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far")
    host.run("ip", "link", "set", "eth0", "up")
    host.run("ip", "route", "add", "10.244.1.0/26", "dev", "eth0", "proto", "80")
    host.run("ip", "route", "add", "10.9.0.0/16", "dev", "eth0", "proto", "static")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_nothing_of_ours_is_left_and_nothing_else_is_gone(tmp_path: Path) -> None:
    received: list[Any] = []
    with host_namespace() as host:
        furnish(host, tmp_path, '{"plugins": [{"type": "calico-py"}]}')
        async with api(received) as url:
            problems = await undo(configure(tmp_path, url), state=tmp_path / "state", run=tmp_path / "run")
        routes = host.run("ip", "route").stdout
    assert problems == []
    assert "10.244.1.0/26" not in routes
    assert "10.9.0.0/16" in routes
    assert names(tmp_path) == ["bin", "kubeconfig", "net.d"]
    assert names(tmp_path / "bin") == ["bridge"]
    assert names(tmp_path / "net.d") == []
    patch, pool = received
    assert pool == {"metadata": {"resourceVersion": "7", "finalizers": ["example.org/other"]}}
    assert patch["metadata"]["annotations"][NODE_IPV4_ADDRESS] is None
    assert patch["metadata"]["labels"] == {NODE_TUNNEL_ENGINE_LABEL: None}


async def test_a_conflist_of_calico_s_own_stays_and_an_api_that_is_away_is_told(tmp_path: Path) -> None:
    config = configure(tmp_path, "http://127.0.0.1:1")
    with host_namespace() as host:
        furnish(host, tmp_path, '{"plugins": [{"type": "calico"}]}')
        problems = await undo(config, state=tmp_path / "state", run=tmp_path / "run")
    assert (tmp_path / "net.d" / "10-calico.conflist").exists()
    (problem,) = problems
    assert NODE_IPV4_ADDRESS in problem
    assert "Connection refused" in problem
    assert NODE_SENDING in problem

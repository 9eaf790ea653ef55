"""SysctlKeeper: old values are on the disk before anything is changed, and come back."""

import errno
import json
from pathlib import Path

import pytest

from calico_py.dataplane.sysctls import FORWARD_IPV4, FORWARD_IPV6, SysctlKeeper, Touched, wanted_settings
from calico_py.model.kernel import Put, Sysctl
from tests.fakes.kernel import FakeKernel

UPLINK = "net/ipv4/conf/eth0/rp_filter"
TUNNEL = "net/ipv4/conf/tunl0/rp_filter"


@pytest.fixture
def kernel() -> FakeKernel:
    made = FakeKernel()
    made.add_device("eth0")
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "sysctls.json"


def test_the_settings_wanted() -> None:
    assert wanted_settings(uplinks=["eth0"], tunnels=["tunl0"], ipv6=False) == {
        FORWARD_IPV4: "1",
        UPLINK: "2",
        TUNNEL: "2",
    }
    assert FORWARD_IPV6 in wanted_settings(uplinks=[], tunnels=[], ipv6=True)


@pytest.mark.parametrize("before", ["0", "1"])
async def test_settings_are_changed_remembered_and_put_back(kernel: FakeKernel, path: Path, before: str) -> None:
    await kernel.send([Put(Sysctl(UPLINK, before))])
    keeper = SysctlKeeper(kernel, path)
    settings = wanted_settings(uplinks=["eth0"], tunnels=["tunl0"], ipv6=False)
    assert await keeper.apply(settings) == {}
    assert await kernel.sysctl(UPLINK) == "2"
    assert await kernel.sysctl(FORWARD_IPV4) == "1"
    assert await kernel.sysctl(TUNNEL) is None, "there is no tunl0 yet"
    assert keeper.touched() == [Touched(FORWARD_IPV4, "0", "1"), Touched(UPLINK, before, "2")]

    restarted = SysctlKeeper(kernel, path)
    assert await restarted.apply(settings) == {}
    assert await restarted.restore() == []
    assert await kernel.sysctl(UPLINK) == before
    assert await kernel.sysctl(FORWARD_IPV4) == "0"
    assert not path.exists()  # noqa: ASYNC240 - nothing else runs


async def test_what_is_right_already_is_not_ours(kernel: FakeKernel, path: Path) -> None:
    await kernel.send([Put(Sysctl(UPLINK, "2")), Put(Sysctl(FORWARD_IPV4, "1"))])
    keeper = SysctlKeeper(kernel, path)
    await keeper.apply({FORWARD_IPV4: "1", UPLINK: "2"})
    assert keeper.touched() == []
    await keeper.restore()
    assert await kernel.sysctl(UPLINK) == "2"


async def test_the_first_value_is_the_original_however_often_it_is_changed(kernel: FakeKernel, path: Path) -> None:
    await kernel.send([Put(Sysctl(UPLINK, "1"))])
    keeper = SysctlKeeper(kernel, path)
    await keeper.apply({UPLINK: "2"})
    await kernel.send([Put(Sysctl(UPLINK, "0"))])
    await keeper.apply({UPLINK: "2"})
    await keeper.restore()
    assert await kernel.sysctl(UPLINK) == "1"


async def test_what_someone_changed_since_is_theirs(kernel: FakeKernel, path: Path) -> None:
    keeper = SysctlKeeper(kernel, path)
    await keeper.apply({UPLINK: "2"})
    await kernel.send([Put(Sysctl(UPLINK, "1"))])
    await keeper.restore()
    assert await kernel.sysctl(UPLINK) == "1"


async def test_old_values_are_on_the_disk_before_the_change(kernel: FakeKernel, path: Path) -> None:
    seen: list[object] = []

    def look(when: str, verb: str, _change: object) -> None:
        if (when, verb) == ("before", "send"):
            seen.append(json.loads(path.read_text()))

    kernel._fault = look
    await SysctlKeeper(kernel, path).apply({UPLINK: "2"})
    assert seen == [[{"name": UPLINK, "original": "0", "given": "2"}]]


async def test_a_refused_change_is_told(kernel: FakeKernel, path: Path) -> None:
    kernel.fail_next(errno.EROFS)
    problems = await SysctlKeeper(kernel, path).apply({UPLINK: "2", FORWARD_IPV4: "1"})
    assert list(problems) == [UPLINK]
    assert "mount the host's /proc/sys" in problems[UPLINK]
    assert await kernel.sysctl(FORWARD_IPV4) == "1"


async def test_a_refused_restoration_is_remembered(kernel: FakeKernel, path: Path) -> None:
    keeper = SysctlKeeper(kernel, path)
    await keeper.apply({FORWARD_IPV4: "1", UPLINK: "2"})
    kernel.fail_next(errno.EROFS)
    assert len(await keeper.restore()) == 1
    assert [entry.name for entry in keeper.touched()] == [UPLINK]
    assert await keeper.restore() == []


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"name": "x"}]', "{}x"])
async def test_a_damaged_file_is_told_of(
    kernel: FakeKernel, path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    path.write_text(text)  # noqa: ASYNC240 - nothing else runs
    keeper = SysctlKeeper(kernel, path)
    assert keeper.touched() == []
    assert str(path) in caplog.text
    assert await keeper.apply({UPLINK: "2"}) == {}


async def test_a_damaged_file_is_told_of_once(kernel: FakeKernel, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is read at every pass and at every look at the status."""
    path.parent.mkdir(parents=True)
    path.write_text("{")  # noqa: ASYNC240 - nothing else runs
    keeper = SysctlKeeper(kernel, path)
    for _ in range(3):
        await keeper.apply({})
        assert keeper.touched() == []
    assert len(caplog.records) == 1


async def test_where_the_old_values_cannot_be_kept_nothing_is_changed(tmp_path: Path) -> None:
    """A full disk, say: it must not end the agent, and a setting whose old value is lost could not be put back."""
    kernel = FakeKernel()
    (tmp_path / "file").write_text("")
    keeper = SysctlKeeper(kernel, tmp_path / "file" / "sysctls.json")
    problems = await keeper.apply({FORWARD_IPV4: "1"})
    assert await kernel.sysctl(FORWARD_IPV4) == "0"
    (sentence,) = problems.values()
    assert "sysctls.json" in sentence
    assert FORWARD_IPV4 in sentence


async def test_old_values_that_cannot_be_read_for_now_are_not_lost(kernel: FakeKernel, path: Path) -> None:
    """A folder in the file's place is what a disk of its own that is away leaves."""
    await kernel.send([Put(Sysctl(UPLINK, "1"))])
    keeper = SysctlKeeper(kernel, path)
    await keeper.apply({UPLINK: "2"})
    kept = path.rename(path.with_name("kept"))  # noqa: ASYNC240 - nothing else runs
    path.mkdir()  # noqa: ASYNC240 - nothing else runs
    await kernel.send([Put(Sysctl(UPLINK, "0"))])
    problems = await keeper.apply({UPLINK: "2"})
    assert "so that their old values would be lost; free or mend its disk" in problems[UPLINK]
    assert await kernel.sysctl(UPLINK) == "0"
    assert await keeper.restore() == [
        f"{path} cannot be read (Is a directory): its settings are not put back; mend its disk"
    ]
    path.rmdir()  # noqa: ASYNC240 - nothing else runs
    kept.rename(path)
    assert await keeper.apply({UPLINK: "2"}) == {}
    await keeper.restore()
    assert await kernel.sysctl(UPLINK) == "1"

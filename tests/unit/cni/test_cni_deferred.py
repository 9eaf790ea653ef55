"""DELs that wait in files."""

import os
from pathlib import Path

import pytest

from calico_py.cni.deferred import DeferredDels
from calico_py.cni.wire import Request, pack_request


def del_of(container: str, ifname: str = "eth0") -> Request:
    return Request({"CNI_COMMAND": "DEL", "CNI_CONTAINERID": container, "CNI_IFNAME": ifname}, b"{}")


def test_what_is_kept_is_pending_until_done(tmp_path: Path) -> None:
    first = DeferredDels(tmp_path / "var" / "del")
    first.keep(del_of("a"))
    first.keep(del_of("a"))
    second = DeferredDels(tmp_path / "var" / "del")
    assert list(second.pending()) == [del_of("a")]
    assert second.holds(del_of("a"))
    assert not second.holds(del_of("a", "eth1"))
    second.done(del_of("a"))
    second.done(del_of("a"))
    assert list(first.pending()) == []


def test_for_root_alone(tmp_path: Path) -> None:
    DeferredDels(tmp_path / "del").keep(del_of("a"))
    assert (tmp_path / "del").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "del" / "a.eth0").stat().st_mode & 0o777 == 0o600


def test_oldest_first(tmp_path: Path) -> None:
    deferred = DeferredDels(tmp_path)
    for age, name in enumerate(("c", "a", "b")):
        deferred.keep(del_of(name))
        os.utime(tmp_path / f"{name}.eth0", (age, age))
    assert [request.env["CNI_CONTAINERID"] for request in deferred.pending()] == ["c", "a", "b"]


@pytest.mark.parametrize("content", [b"", pack_request(del_of("a"))[:-1], pack_request(del_of("a")) + b"more"])
def test_a_file_that_is_no_request_is_removed(tmp_path: Path, content: bytes) -> None:
    deferred = DeferredDels(tmp_path)
    (tmp_path / "bad.eth0").write_bytes(content)
    deferred.keep(del_of("good"))
    assert list(deferred.pending()) == [del_of("good")]
    assert [path.name for path in tmp_path.iterdir()] == ["good.eth0"]


def test_a_file_of_another_wire_version_stays_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After a downgrade: the DEL is a later agent's to do."""
    deferred = DeferredDels(tmp_path)
    (tmp_path / "later.eth0").write_bytes(b"\x02" + pack_request(del_of("later"))[1:])
    deferred.keep(del_of("good"))
    for _ in range(3):
        assert list(deferred.pending()) == [del_of("good")]
    assert (tmp_path / "later.eth0").exists()
    assert len(caplog.records) == 1
    assert "found 2, expected 1" in caplog.text


def test_a_file_in_the_making_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".x.eth0.77").write_bytes(b"half")
    assert list(DeferredDels(tmp_path).pending()) == []
    assert (tmp_path / ".x.eth0.77").exists()


def test_a_full_disk_is_told_and_leaves_nothing() -> None:
    """/proc takes no files, even from root."""
    deferred = DeferredDels(Path("/proc/self/fdinfo"))
    with pytest.raises(OSError, match=r"No such file|not permitted|denied"):
        deferred.keep(del_of("a"))

"""What a machine lacks is named with the packages that bring it."""

import pytest

from calico_py.lab.commands import LabError, require


def test_names_packages_of_missing_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(LabError, match=r"ip, umount, sleep: .* apt-get install coreutils iproute2 mount$"):
        require("ip", "umount", "sleep")

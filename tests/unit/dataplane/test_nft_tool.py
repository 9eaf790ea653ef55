"""The program nft may hang; the pass that asked it may not."""

import os
from pathlib import Path

import pytest

from calico_py.dataplane import nft_tool


async def test_an_nft_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nft = tmp_path / "nft"
    nft.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    nft.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(nft_tool, "PATIENCE", 0.5)
    with pytest.raises(nft_tool.NftError, match=r"nft -j list tables.*0\.5 s"):
        await nft_tool.list_tables()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_an_nft_that_cannot_be_started_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nft = tmp_path / "nft"
    nft.write_text("#!/no/such/interpreter\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(nft_tool.NftError, match="the program nft cannot be started: Permission denied"):
        await nft_tool.list_tables()
    nft.chmod(0o755)
    with pytest.raises(nft_tool.NftMissingError):
        await nft_tool.list_tables()

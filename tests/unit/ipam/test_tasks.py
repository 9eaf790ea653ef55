"""What goes wrong behind an answer is told in the log: a refusal as a sentence, a defect with its place."""

import logging

import pytest

from calico_py.ipam.requests import ContendedError
from calico_py.ipam.tasks import Tasks
from calico_py.model.store import UnavailableError


@pytest.mark.parametrize(
    ("error", "level", "shown"),
    [
        (UnavailableError("get IPAMBlock b: the API server cannot be reached"), logging.WARNING, False),
        (ContendedError("block b: its writes met 100 conflicts in a row"), logging.WARNING, False),
        (OSError(28, "No space left on device"), logging.WARNING, False),
        (AssertionError("what cannot be"), logging.ERROR, True),
    ],
)
async def test_how_an_error_is_told(
    error: Exception, level: int, shown: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise error

    tasks = Tasks()
    tasks.spawn(fail(), name="release what an ADD got in vain")
    await tasks.drain()
    (record,) = caplog.records
    assert (record.levelno, bool(record.exc_info)) == (level, shown)
    assert record.getMessage().startswith("release what an ADD got in vain")
    assert str(error) in record.getMessage()

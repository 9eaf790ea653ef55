"""What IPAMConfiguration means."""

from datetime import timedelta

import pytest

from calico_py.ipam.rules import block_limit_of, config_problems, cooldown_of, may_press
from tests.fakes.ipam import config


@pytest.mark.parametrize(("seconds", "expected", "pressing"), [(None, 30, True), (0, 0, False), (5, 5, False)])
def test_the_cooldown(seconds: int | None, expected: int, *, pressing: bool) -> None:
    found = config(ip_cooldown_seconds=seconds)
    assert cooldown_of(found) == timedelta(seconds=expected)
    assert may_press(found) is pressing


def test_zero_blocks_means_twenty() -> None:
    assert block_limit_of(config()) == 20
    assert block_limit_of(config(max_blocks_per_host=3)) == 3


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({}, ""),
        ({"strict_affinity": True, "auto_allocate_blocks": False, "max_blocks_per_host": 3}, ""),
        ({"auto_allocate_blocks": False}, "spec.autoAllocateBlocks is false"),
        ({"max_blocks_per_host": 3}, "spec.maxBlocksPerHost is 3"),
    ],
)
def test_settings_that_contradict_each_other_are_named(fields: dict[str, object], word: str) -> None:
    found = config_problems(config(**fields))
    assert len(found) == bool(word)
    assert all(word in problem and "set spec." in problem for problem in found)

"""Numbers as people read them, and what is reserved."""

from ipaddress import ip_network

import pytest
from rich.table import Table

from calico_py.cli.ipam_output import cell, console, counted, share
from calico_py.cli.ipam_show import pool_rows
from tests.fakes.ipam import pool


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 64, "0 (0%)"),
        (1, 64, "1 (2%)"),
        (1, 65536, "1 (<1%)"),
        (65535, 65536, "65535 (>99%)"),
        (64, 64, "64 (100%)"),
        (2**72 - 16, 2**72, "4.7e+21 (>99%)"),
        (0, 0, "0 (0%)"),
    ],
)
def test_a_share(part: int, whole: int, text: str) -> None:
    assert share(part, whole) == text


def test_a_cell() -> None:
    assert [cell(value) for value in (True, False, 7, 2**72, "x", None)] == ["yes", "no", "7", "4.7e+21", "x", "None"]
    assert [counted(number, "block") for number in (0, 1, 2)] == ["0 blocks", "1 block", "2 blocks"]


@pytest.mark.parametrize(
    ("reserved", "expected"),
    [
        ((), 0),
        (("10.0.0.0/30",), 4),
        (("10.0.0.0/30", "10.0.0.2/31"), 4),
        (("10.0.0.0/8",), 32),
        (("10.0.1.0/24", "fd00::/64"), 0),
    ],
)
def test_what_is_reserved_counts_once_and_inside_the_pool(reserved: tuple[str, ...], expected: int) -> None:
    (row,) = pool_rows([], [pool("10.0.0.0/27", 28)], [ip_network(each) for each in reserved])
    assert (row["reserved"], row["free"]) == (expected, 32 - expected)


def test_a_long_name_stays_whole_where_grep_reads_it(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table()
    for column in ("a pool's name", "the address of a block", "mode"):
        table.add_column(column, overflow="fold")
    row = ("default-ipv6-ippool-of-the-second-site", "fd00:77:0:ce1f:418a:b86a:74a7:1b40/122", "CrossSubnet")
    table.add_row(*row)
    console().print(table)
    line = next(each for each in capsys.readouterr().out.splitlines() if "default" in each)
    assert all(each in line for each in row)

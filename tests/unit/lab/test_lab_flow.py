"""What a flow's two reports amount to."""

import json

from calico_py.lab.flow import Report, compute_direction, render_report


def _report(sent: int = 0, received: tuple[int, ...] = (), **more: object) -> dict[str, object]:
    counts = {number: received.count(number) for number in received}
    found = json.loads(render_report(Report(sent=sent, received=counts)))
    assert isinstance(found, dict)
    return found | more


def test_nothing_lost() -> None:
    found = compute_direction(_report(sent=3), _report(received=(0, 1, 2)))
    assert (found.sent, found.received, found.lost, found.duplicates) == (3, 3, 0, 0)


def test_lost_and_doubled_are_told_apart() -> None:
    found = compute_direction(_report(sent=5), _report(received=(0, 0, 1, 3, 3, 3)))
    assert (found.received, found.lost, found.duplicates, found.missing) == (3, 2, 3, (2, 4))


def test_the_last_ones_count_as_lost_as_well() -> None:
    assert compute_direction(_report(sent=100), _report(received=tuple(range(99)))).missing == (99,)


def test_all_lost() -> None:
    found = compute_direction(_report(sent=1000), _report())
    assert (found.received, found.lost) == (0, 1000)
    assert found.missing == tuple(range(20))


def test_times_are_milliseconds_and_reasons_are_shown() -> None:
    sender = _report(sent=2, refused={"Network is unreachable": 1})
    found = compute_direction(sender, _report(received=(0,), gap=0.25, latency=0.0123, dropped=7))
    assert (found.gap, found.latency, found.dropped) == (250.0, 12.3, 7)
    for words in ("lost 1", "longest gap 250.0 ms", "Network is unreachable", "own socket 7"):
        assert words in found.describe()

"""The picture: well-formed, complete, nothing on top of something else."""

from itertools import combinations, pairwise
from xml.etree import ElementTree as ET

import pytest

from calico_py.lab.picture import Link, NodeBox, Picture, PodBox, render_svg

SVG = "{http://www.w3.org/2000/svg}"


def _picture(count: int, pods: int = 2) -> Picture:
    nodes = tuple(
        NodeBox(
            name=f"node{number}",
            addresses=(f"192.168.{50 + number // 3}.{10 + number}", f"fd00::{number}"),
            subnet=f"192.168.{50 + number // 3}.0/24",
            pods=tuple(PodBox(f"pod-{number}-{pod}", (f"10.244.{number}.{pod}",)) for pod in range(pods)),
        )
        for number in range(1, count + 1)
    )
    pairs = [(a.name, b.name) for a, b in combinations(nodes, 2)]
    links = [Link("tunnel", pair, "IPIP") for pair in pairs] + [Link("session", pair, "1 of 1 up") for pair in pairs]
    return Picture("a <title> & more", nodes, tuple(links))


def _boxes(root: ET.Element, css: str) -> list[tuple[float, float, float, float]]:
    found = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == css and rect.get("rx") != "4"]
    return [tuple(float(rect.get(key, "nan")) for key in ("x", "y", "width", "height")) for rect in found]  # type: ignore[misc]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_everything_is_drawn_and_named(count: int) -> None:
    picture = _picture(count)
    root = ET.fromstring(render_svg(picture))
    texts = {"".join(text.itertext()) for text in root.iter(f"{SVG}text")}
    assert picture.title in texts
    for node in picture.nodes:
        assert {node.name, *node.addresses, f"subnet {node.subnet}"} <= texts
        assert all({pod.name, *pod.addresses} <= texts for pod in node.pods)
    assert len(_boxes(root, "node")) == count
    assert len(_boxes(root, "pod")) == 2 * count
    arcs = [path for path in root.iter(f"{SVG}path") if "C" in path.get("d", "")]
    assert len(arcs) == len(picture.links)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_nodes_stand_apart_and_everything_lies_on_the_paper(count: int) -> None:
    root = ET.fromstring(render_svg(_picture(count)))
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    nodes = sorted(_boxes(root, "node"))
    assert all(left[0] + left[2] < right[0] for left, right in pairwise(nodes))
    for x, y, w, h in [*nodes, *_boxes(root, "pod"), *_boxes(root, "subnet")]:
        assert 0 <= x < x + w <= width
        assert 0 <= y < y + h <= height
    for x, y, w, h in _boxes(root, "pod"):
        assert any(a <= x and b <= y and x + w <= a + c and y + h <= b + d for a, b, c, d in nodes)
    for path in root.iter(f"{SVG}path"):
        words = path.get("d", "").split()
        if "C" in words:
            base, control = float(words[2]), float(words[5])
            assert 0 < base + 0.75 * (control - base) < height


def test_a_session_that_is_down_looks_different() -> None:
    nodes = _picture(2).nodes
    link = Link("session", ("node1", "node2"), "0 of 1 up", up=False)
    assert 'class="session down"' in render_svg(Picture("x", nodes, (link,)))


def test_it_follows_the_viewers_preference_for_dark() -> None:
    assert "prefers-color-scheme: dark" in render_svg(_picture(1))


def test_names_are_text_and_never_markup() -> None:
    node = NodeBox("<script>", ("a&b",), '"', (PodBox("</svg>", ("<",)),))
    root = ET.fromstring(render_svg(Picture("x", (node,), ())))
    assert "<script>" in {"".join(text.itertext()) for text in root.iter(f"{SVG}text")}

"""A picture of a cluster as SVG: nodes and pods as boxes, tunnels as arcs above them, BGP sessions as arcs below. Pure.

Colours are chosen for light and dark: the picture follows the viewer's preference (CSS prefers-color-scheme).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

_CARD = 236  # width of a node
_GAP = 34  # between nodes
_MARGIN = 36
_HEAD = 74  # title above all
_TEXT = 18  # height of a line
_POD = 44  # height of a pod with its gap
_ARC = 34  # how much higher an arc is for each node that it passes
_LEGEND = 64

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2933; }
.title { font-size: 20px; font-weight: 600; }
.name { font-size: 15px; font-weight: 600; }
.soft { fill: #52606d; }
.label { fill: #52606d; paint-order: stroke; stroke: #ffffff; stroke-width: 5; }
.mono { font: 12px ui-monospace, monospace; }
.paper { fill: #ffffff; }
.subnet { fill: #f0f4f8; stroke: #9fb3c8; stroke-dasharray: 5 4; }
.node { fill: #ffffff; stroke: #486581; stroke-width: 1.5; }
.pod { fill: #e3f8ff; stroke: #1992d4; }
.tunnel { fill: none; stroke: #d9730d; stroke-width: 3; }
.direct { fill: none; stroke: #2f8132; stroke-width: 3; }
.session { fill: none; stroke: #7c3aed; stroke-width: 2; stroke-dasharray: 7 4; }
.down { stroke: #c81e1e; stroke-dasharray: 2 4; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f4f8; }
  .soft { fill: #bcccdc; }
  .label { fill: #bcccdc; stroke: #14191f; }
  .paper { fill: #14191f; }
  .subnet { fill: #1d252e; stroke: #627d98; }
  .node { fill: #243b53; stroke: #9fb3c8; }
  .pod { fill: #0b4a6f; stroke: #5ed0fa; }
  .tunnel { stroke: #f7a23b; }
  .direct { stroke: #69c46d; }
  .session { stroke: #b794f6; }
  .down { stroke: #f86a6a; }
}
"""


@dataclass(frozen=True, slots=True)
class PodBox:
    """A pod: name and addresses."""

    name: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeBox:
    """A node: name, addresses, subnet (in CIDR form) and pods."""

    name: str
    addresses: tuple[str, ...]
    subnet: str
    pods: tuple[PodBox, ...] = ()


@dataclass(frozen=True, slots=True)
class Link:
    """Something between two nodes, by their names.

    Attributes:
        kind: ``tunnel``, ``direct`` or ``session``. up: a session's state.
    """

    kind: str
    ends: tuple[str, str]
    label: str = ""
    up: bool = True


@dataclass(frozen=True, slots=True)
class Picture:
    """What is drawn. Nodes of one subnet stand together."""

    title: str
    nodes: tuple[NodeBox, ...]
    links: tuple[Link, ...]


def render_svg(picture: Picture) -> str:
    """The whole file."""
    nodes = picture.nodes
    reach = max((_span(link, nodes) for link in picture.links), default=1)
    top = _HEAD + 30 + _ARC * reach
    lines = max((len(node.addresses) for node in nodes), default=1)
    pods = max((len(node.pods) for node in nodes), default=0)
    height = 40 + _TEXT * lines + _POD * pods + 14
    below = top + height + 56 + _ARC * reach
    width = max(2 * _MARGIN + len(nodes) * (_CARD + _GAP) - _GAP + 2 * 18, 640)
    arcs = [_arc(link, nodes, top, height) for link in picture.links]
    size = f'viewBox="0 0 {width} {below + _LEGEND}" width="{width}" height="{below + _LEGEND}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{escape(picture.title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{width}" height="{below + _LEGEND}"/>',
        _text(_MARGIN, 44, picture.title, "title"),
        *_subnets(nodes, top, height),
        *(line for line, _ in arcs),
        *(label for _, label in arcs),
        *(part for i, node in enumerate(nodes) for part in _node(node, _left(i), top, height)),
        *_legend(below + 8, {link.kind for link in picture.links} | {"node", "pod"}),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _left(index: int) -> int:
    return _MARGIN + 18 + index * (_CARD + _GAP)


def _span(link: Link, nodes: Sequence[NodeBox]) -> int:
    first, second = _indexes(link, nodes)
    return second - first


def _indexes(link: Link, nodes: Sequence[NodeBox]) -> tuple[int, int]:
    names = [node.name for node in nodes]
    first, second = sorted(names.index(end) for end in link.ends)
    return first, second


def _subnets(nodes: Sequence[NodeBox], top: int, height: int) -> Iterable[str]:
    for subnet, members in groupby(enumerate(nodes), key=lambda entry: entry[1].subnet):
        indexes = [index for index, _ in members]
        left, right = _left(indexes[0]) - 14, _left(indexes[-1]) + _CARD + 14
        yield f'<rect class="subnet" x="{left}" y="{top - 16}" width="{right - left}" height="{height + 54}" rx="12"/>'
        yield _text(left + 14, top + height + 26, f"subnet {subnet}", "soft")


def _node(node: NodeBox, left: int, top: int, height: int) -> Iterable[str]:
    yield f'<rect class="node" x="{left}" y="{top}" width="{_CARD}" height="{height}" rx="8"/>'
    yield _text(left + 14, top + 26, node.name, "name")
    y = top + 28
    for address in node.addresses:
        y += _TEXT
        yield _text(left + 14, y, address, "mono soft")
    for pod in node.pods:
        y += 12
        yield f'<rect class="pod" x="{left + 12}" y="{y}" width="{_CARD - 24}" height="{_POD - 8}" rx="6"/>'
        yield _text(left + 22, y + 15, pod.name, "")
        yield _text(left + 22, y + 30, "  ".join(pod.addresses), "mono")
        y += _POD - 12


def _arc(link: Link, nodes: Sequence[NodeBox], top: int, height: int) -> tuple[str, str]:
    """From card to card: above for what packets take, below for sessions.

    The farther an arc goes, the farther out it begins, so that arcs of one card do not cross; labels stand inside,
    and are drawn last.
    """
    first, second = _indexes(link, nodes)
    span = second - first
    shift = max(72 - 22 * (span - 1), -84)
    start, end = _left(first) + _CARD / 2 + shift, _left(second) + _CARD / 2 - shift
    above = link.kind != "session"
    base = top if above else top + height
    summit = base - 8 - _ARC * span if above else base + 38 + _ARC * span
    control = round(base + (summit - base) / 0.75, 1)  # where a cubic curve's middle is three quarters of the way
    middle = (start + end) / 2
    css = f"{link.kind}{'' if link.up else ' down'}"
    path = f'<path class="{css}" d="M {start} {base} C {start} {control} {end} {control} {end} {base}"/>'
    label_y = summit + 17 if above else summit - 8
    return path, _text(middle, label_y, link.label, "label", anchor="middle")


def _legend(y: int, kinds: set[str]) -> Iterable[str]:
    texts = {
        "node": "node",
        "pod": "pod",
        "tunnel": "IPIP tunnel",
        "direct": "direct route",
        "session": "BGP session",
    }
    x = _MARGIN
    for kind, text in texts.items():
        if kind not in kinds:
            continue
        if kind in ("node", "pod"):
            yield f'<rect class="{kind}" x="{x}" y="{y + 8}" width="28" height="16" rx="4"/>'
        else:
            yield f'<path class="{kind}" d="M {x} {y + 16} h 28"/>'
        yield _text(x + 36, y + 21, text, "")
        x += 60 + 8 * len(text)


def _text(x: float, y: float, text: str, css: str, anchor: str = "start") -> str:
    return f'<text class="{css}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>' if text else ""

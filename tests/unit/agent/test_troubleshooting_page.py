"""docs/troubleshooting.md has an entry for each sentence that status, readiness, conditions and Events can say."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parents[3]
PAGE = (HERE / "docs" / "troubleshooting.md").read_text()
CODE = HERE / "calico_py"
GAP = "\0"  # what differs, in a sentence of the code
GAPS = r"\.\.\.|[:;(),]|\b(?:X|tunl0|IPv4|IP|2|30|179|900|1450|1500|20000)\b"  # the same, in one of the page

ALL = ("*",)
MODULE = "<module>"
# Where sentences are made: the functions of each file, or all of them.
SOURCES: dict[str, tuple[str, ...]] = {
    "agent/addresses.py": ALL,
    "agent/cluster/conditions.py": ("judge_pools",),
    "agent/cluster/leader.py": ("_tell",),
    "agent/loop.py": ("__init__", "stuck", "_state"),
    "agent/mtu.py": ALL,
    "agent/own_address.py": (MODULE, "__init__", "_ask", "_choose"),
    "agent/parts.py": ("not_ready",),
    "agent/pool_writer.py": ("_write",),
    "agent/pools.py": (MODULE, "_merge"),
    "agent/publish.py": ("run", "_give_way"),
    "agent/status/report.py": ("not_ready", "why_not_receiving"),
    "agent/tunnel_address.py": ("run", "_tell"),
    "agent/view.py": ("problems",),
    "bgp/reasons.py": ALL,
    "bgp/rib.py": ("__init__", "_session"),
    "bgp/speaker.py": ("set", "events", "_write_config"),
    "dataplane/ipip.py": ALL,
    "dataplane/nft_tool.py": ("_run",),
    "dataplane/plan.py": ALL,
    "dataplane/refusals.py": (MODULE,),
    "dataplane/routes.py": ("_explain",),
    "dataplane/sysctls.py": ("apply",),
    "ipam/promises.py": ("_distrust", "_tell_lost"),
    "kube/reflector.py": ("_failed",),
    "kube/transport.py": ("_unavailable", "to_error"),
    "routing/compute.py": ("_programmers", "_takes"),
    "routing/destinations.py": ("_ways",),
    "routing/holders.py": ("find_holders",),
    "routing/pools.py": ("select_pools",),
}

# No causes by themselves: cures and other ends of a sentence, choices that went well, what only the log has.
NO_CAUSES = (
    r"see the log of its BGP speaker|.*; if not, see .*|raise its limit.*|enable the session.*|add this node there.*",
    r"give (it memory|one of the two).*|check that packets pass.*|correct the AS number.*|notification sent.*",
    r"; both ends must have .*|\0; (free or mend|see why|give that|give the).*|\0: (give the|its own).*|\0 port \0",
    r"see metadata.managedFields.*|no way to it|a device of this node|does not exist| and this node's.*",
    r" with the alias .*|the source address towards .*|\0 contains it|\0: the first address of .*|\0 is none",
    r"\0 over IPv\0|CALICO_PY_MTU sets it|may be out of date|are not known yet|the API server answered \0|\0 local \0",
    r"IPPool \0: spec.\0 \0 becomes .*|made IPPool.*|IPv%d .*|address of tunl0.*|none, and none is needed|Node \0 \0",
    r"graceful restarted negotiated, .*|closing outgoing connection .*|connection received before .*",
    r"Nexthop has .*|Gateway can .*|its calico-py agent.*|Node \0 cannot be read, going by .*",
)


def templates(path: str, functions: tuple[str, ...]) -> Iterator[str]:
    """Sentences of a file that may be causes: of three words or more, with gaps for what differs."""
    for text in texts(path, functions):
        if text.count(" ") >= 2 and not any(re.fullmatch(pattern, text, re.DOTALL) for pattern in NO_CAUSES):
            yield text


def texts(path: str, functions: tuple[str, ...]) -> Iterator[str]:
    """All texts of a file but for docstrings."""

    def walk(node: ast.AST, function: str) -> Iterator[str]:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return  # a docstring
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        wanted = functions == ALL or function in functions
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and wanted:
            yield node.value
        if isinstance(node, ast.JoinedStr):
            if wanted:
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
            children: list[ast.AST] = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
        else:
            children = list(ast.iter_child_nodes(node))
        for child in children:
            yield from walk(child, function)

    yield from walk(ast.parse((CODE / path).read_text()), MODULE)


def plain(text: str) -> str:
    """Without Markdown's marks and line breaks."""
    return " ".join(text.replace("`", "").split())


def key(template: str) -> str:
    """The words by which a sentence is known: its first that are not too few, up to the cure."""
    pieces = [plain(re.split(r"[;:(,]", piece.strip("), "))[0]) for piece in template.split(GAP)]
    return next((piece for piece in pieces if piece.count(" ") >= 2), max(pieces, key=len))


SENTENCES = [(path, text) for path, functions in SOURCES.items() for text in templates(path, functions)]


@pytest.mark.parametrize("path", SOURCES)
def test_each_sentence_of_the_code_is_on_the_page(path: str) -> None:
    page = plain(PAGE)
    missing = [text.replace(GAP, "...") for where, text in SENTENCES if where == path and key(text) not in page]
    assert not missing, f"docs/troubleshooting.md has no entry for these sentences of calico_py/{path}"


def test_each_sentence_of_the_page_is_said_by_the_code() -> None:
    """Of a table's rows, the spans of code before the last cell."""
    said = [plain(text) for path in CODE.rglob("*.py") for text in texts(str(path.relative_to(CODE)), ALL)]
    rows = [line for line in PAGE.splitlines() if line.startswith("| `") or re.match(r"\| [A-Z]\w+ \| ", line)]
    spans = [span for row in rows for span in re.findall(r"`([^`]+)`", row.rpartition(" | ")[0])]
    assert len(spans) > 100
    unsaid = [part for span in spans for part in parts(span) if not any(part in text for text in said)]
    assert not unsaid, "docs/troubleshooting.md quotes what the code does not say"


def parts(span: str) -> list[str]:
    """What a quotation has of sentences, without what differs; of a short one the longest piece."""
    pieces = [plain(piece) for piece in re.split(GAPS, span)]
    return [piece for piece in pieces if piece.count(" ") >= 2] or [max(pieces, key=len)]


def test_a_sentence_that_is_not_there_is_missed() -> None:
    """Negative control."""
    assert key(f"node {GAP} stands on its head: turn it round") not in plain(PAGE)
    assert parts("node X stands on its head (X)") == ["stands on its head"]

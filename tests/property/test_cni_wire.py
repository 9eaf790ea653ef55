"""The frames between shim and agent: whatever is packed comes back, in whatever pieces; whatever else is refused."""

import contextlib
import json

from hypothesis import given
from hypothesis import strategies as st

from calico_py.cni import wire
from calico_py.cni.config import parse_call, version_of
from calico_py.cni.errors import CNIError, Code

names = st.text(st.characters(categories=["Lu"], max_codepoint=127), min_size=1, max_size=12).map("CNI_".__add__)
values = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
requests = st.builds(
    wire.Request,
    env=st.dictionaries(names, values, max_size=6),
    stdin=st.binary(max_size=300),
    netns_errno=st.integers(0, 2**32 - 1),
)


@given(requests, st.lists(st.integers(1, 40), max_size=30))
def test_a_request_comes_back_in_whatever_pieces(request: wire.Request, sizes: list[int]) -> None:
    data, reader, found = wire.pack_request(request), wire.RequestReader(), None
    for size in [*sizes, len(data)]:
        assert found is None, "whole too early"
        piece, data = data[:size], data[size:]
        found = reader.feed(piece)
        if not data:
            break
    assert found == request


@given(requests)
def test_a_request_that_is_cut_off_is_not_whole(request: wire.Request) -> None:
    data = wire.pack_request(request)
    reader = wire.RequestReader()
    assert reader.feed(data[:-1]) is None
    assert reader.feed(data[-1:]) == request


@given(st.binary(max_size=200))
def test_any_bytes_give_a_request_or_an_error(data: bytes) -> None:
    with contextlib.suppress(wire.WireError):
        request = wire.parse_request(data)
        assert wire.pack_request(request) == data[:1] + bytes(3) + data[4:]


@given(st.integers(0, 255), st.binary(max_size=300))
def test_an_answer_comes_back(status: int, body: bytes) -> None:
    assert wire.parse_answer(wire.pack_greeting() + wire.pack_answer(status, body)) == (status, body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 70000) | st.text(max_size=8) | st.sampled_from(["1.0.0", "10.65.0.1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(
    ["cniVersion", "name", "mtu", "ipam", "dns", "args", "runtimeConfig", "prevResult", "cni.dev/valid-attachments"]
)
environments = st.fixed_dictionaries(
    {},
    optional={
        "CNI_COMMAND": st.sampled_from(["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"]) | values,
        "CNI_CONTAINERID": st.just("c1") | values,
        "CNI_NETNS": values,
        "CNI_IFNAME": st.just("eth0") | values,
        "CNI_PATH": st.just("/opt/cni/bin"),
        "CNI_ARGS": st.just("K8S_POD_NAME=web;IP=10.65.0.1;MAC=02:00:00:00:00:01") | values,
    },
)
documents = st.dictionaries(keys, json_values, max_size=6).map(
    lambda more: json.dumps({"cniVersion": "1.1.0", "name": "n", **more}).encode()
)


@given(environments, documents | st.binary(max_size=50))
def test_any_call_is_understood_or_refused_with_a_code(env: dict[str, str], stdin: bytes) -> None:
    """Anything else would be a defect, code 999."""
    assert version_of(stdin)
    try:
        call = parse_call(wire.Request(env, stdin))
    except CNIError as error:
        refusal = error
    else:
        assert call.verb == env["CNI_COMMAND"]
        return
    assert refusal.code in set(Code) - {Code.INTERNAL}
    assert refusal.message

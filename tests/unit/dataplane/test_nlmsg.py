"""Framing of netlink messages: what is packed is parsed again, what is cut short is refused."""

import contextlib
import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_py.dataplane import nlmsg

BODIES = st.binary(max_size=64)
U16 = st.integers(0, 0xFFFF)
U32 = st.integers(0, 0xFFFFFFFF)


@given(st.lists(st.tuples(U16, U16, U32, BODIES), max_size=5))
def test_messages_come_back(messages: list[tuple[int, int, int, bytes]]) -> None:
    data = b"".join(nlmsg.pack_message(*message) for message in messages)
    assert [(m.type, m.flags, m.seq, m.body) for m in nlmsg.iter_messages(data)] == messages


@given(st.dictionaries(st.integers(0, nlmsg.NLA_TYPE_MASK), BODIES, max_size=5))
def test_attributes_come_back(attributes: dict[int, bytes]) -> None:
    data = b"".join(nlmsg.pack_attr(kind, payload) for kind, payload in attributes.items())
    assert len(data) % 4 == 0
    assert nlmsg.parse_attrs(data) == attributes


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for parse in (lambda d: list(nlmsg.iter_messages(d)), nlmsg.parse_attrs):
        with contextlib.suppress(nlmsg.TruncatedError):
            parse(data)


def test_numbers_and_text() -> None:
    data = nlmsg.pack_u8(1, 7) + nlmsg.pack_u16(2, 300) + nlmsg.pack_u32(3, 70000) + nlmsg.pack_string(4, "tunl0")
    attrs = nlmsg.parse_attrs(data)
    assert attrs[1] == b"\x07"
    assert int.from_bytes(attrs[2], "little") == 300
    assert nlmsg.parse_u32(attrs[3]) == 70000
    assert nlmsg.parse_string(attrs[4]) == "tunl0"


def test_nested_attributes_lose_their_flag() -> None:
    data = nlmsg.pack_nested(8, nlmsg.pack_u32(2, 1480))
    assert nlmsg.parse_u32(nlmsg.parse_attrs(nlmsg.parse_attrs(data)[8])[2]) == 1480


def test_a_message_longer_than_the_datagram_is_refused() -> None:
    data = nlmsg.pack_message(24, 0, 1, b"12345678")
    with pytest.raises(nlmsg.TruncatedError, match="type 24 says 24 bytes, 20 are there"):
        list(nlmsg.iter_messages(data[:-4]))


@pytest.mark.parametrize("capped", [True, False])
def test_the_kernels_words_are_found_behind_the_request(capped: bool) -> None:
    request = nlmsg.pack_message(24, 5, 9, b"" if capped else b"abcdefg")
    body = (-errno.ENETUNREACH).to_bytes(4, "little", signed=True) + request
    body += nlmsg.pack_string(nlmsg.NLMSGERR_ATTR_MSG, "Nexthop has invalid gateway")
    flags = nlmsg.NLM_F_ACK_TLVS | (nlmsg.NLM_F_CAPPED if capped else 0)
    ack = nlmsg.parse_ack(nlmsg.Message(nlmsg.NLMSG_ERROR, flags, 9, body))
    assert ack == nlmsg.Ack(9, errno.ENETUNREACH, "Nexthop has invalid gateway")
    assert ack.reason == "Network is unreachable: Nexthop has invalid gateway"


def test_done_is_success_unless_it_says_otherwise() -> None:
    assert nlmsg.parse_ack(nlmsg.Message(nlmsg.NLMSG_DONE, 0, 3, b"\0\0\0\0")).errno == 0
    assert nlmsg.parse_ack(nlmsg.Message(nlmsg.NLMSG_DONE, 0, 3, b"")).errno == 0
    body = (-errno.EINVAL).to_bytes(4, "little", signed=True)
    assert nlmsg.parse_ack(nlmsg.Message(nlmsg.NLMSG_DONE, 0, 3, body)).errno == errno.EINVAL

"""Changes of nftables, by anyone (linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h). Tables of ours only."""

import socket
import struct
from collections.abc import Iterator

from calico_py.dataplane import nft_tool, nlmsg, rtnl_socket
from calico_py.model.kernel import KernelEvent, NftTable

_NETLINK_NETFILTER = 12
_GROUP_NFTABLES = 7  # NFNLGRP_NFTABLES
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES, upper byte of nlmsg_type
_MSG_NEWGEN = 15  # a transaction ended: of no table
_MSG_DELTABLE = 2
_NFGENMSG = struct.Struct("=BBH")  # family, version, resource id
_TABLE = 1  # NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE, NFTA_SET_ELEM_LIST_TABLE alike

# enum in linux/netfilter.h, in nft's words
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}


def open_socket() -> socket.socket:
    """A listener, in the thread's namespace.

    Raises:
        OSError: EPROTONOSUPPORT or ENOENT, the kernel has no nftables.
    """
    return rtnl_socket.open_socket([_GROUP_NFTABLES], protocol=_NETLINK_NETFILTER)


def parse_events(data: bytes) -> Iterator[KernelEvent]:
    """What a datagram tells of tables of ours: removed, or something in it changed; each once."""
    told: set[KernelEvent] = set()
    for message in nlmsg.iter_messages(data):
        subsystem, kind = message.type >> 8, message.type & 0xFF
        if subsystem != _SUBSYSTEM or kind == _MSG_NEWGEN or len(message.body) < _NFGENMSG.size:
            continue
        family, _, _ = _NFGENMSG.unpack_from(message.body)
        name = nlmsg.parse_string(nlmsg.parse_attrs(message.body, _NFGENMSG.size).get(_TABLE, b""))
        if family not in _FAMILIES or not nft_tool.is_ours(name):
            continue
        event = KernelEvent(NftTable, kind == _MSG_DELTABLE, NftTable(_FAMILIES[family], name))
        if event not in told:
            told.add(event)
            yield event

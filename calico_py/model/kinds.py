"""The catalogue: each Kubernetes resource that calico-py reads or writes, with its codec.

Kinds of which one room needs no more than a part are declared there (pods, a Node's conditions).
"""

from typing import Any

from calico_py.model import names
from calico_py.model.bgp import BGPConfiguration, FelixConfiguration
from calico_py.model.bgp_codec import decode_bgp_configuration, decode_felix, encode_bgp_configuration, encode_felix
from calico_py.model.blocks import BlockAffinity, IPAMBlock, IPAMConfiguration, IPAMHandle, IPReservation
from calico_py.model.ipam_codec import (
    decode_affinity,
    decode_block,
    decode_handle,
    decode_ipam_configuration,
    decode_reservation,
    encode_affinity,
    encode_block,
    encode_handle,
    encode_ipam_configuration,
    encode_reservation,
)
from calico_py.model.node_codec import decode_node, encode_node
from calico_py.model.nodes import Node
from calico_py.model.pool_codec import decode_pool, encode_pool
from calico_py.model.pools import IPPool
from calico_py.model.store import Kind

PAGE_SIZE = 500  # kubectl's; some 4 MB of JSON of pods
_BLOCKS_A_PAGE = 100  # 1 MB of JSON of blocks of 64 addresses, 100 MB of the largest


def _calico(kind: str, plural: str, decode: Any, encode: Any, *, page_size: int = 0) -> Kind[Any]:
    return Kind(kind, names.GROUP, names.VERSION, plural, decode, encode, page_size=page_size)


IP_POOLS: Kind[IPPool] = _calico("IPPool", "ippools", decode_pool, encode_pool)
BLOCK_AFFINITIES: Kind[BlockAffinity] = _calico("BlockAffinity", "blockaffinities", decode_affinity, encode_affinity)
IPAM_BLOCKS: Kind[IPAMBlock] = _calico("IPAMBlock", "ipamblocks", decode_block, encode_block, page_size=_BLOCKS_A_PAGE)
IPAM_HANDLES: Kind[IPAMHandle] = _calico("IPAMHandle", "ipamhandles", decode_handle, encode_handle, page_size=PAGE_SIZE)
IPAM_CONFIGURATIONS: Kind[IPAMConfiguration] = _calico(
    "IPAMConfiguration", "ipamconfigurations", decode_ipam_configuration, encode_ipam_configuration
)
IP_RESERVATIONS: Kind[IPReservation] = _calico(
    "IPReservation", "ipreservations", decode_reservation, encode_reservation
)
BGP_CONFIGURATIONS: Kind[BGPConfiguration] = _calico(
    "BGPConfiguration", "bgpconfigurations", decode_bgp_configuration, encode_bgp_configuration
)
FELIX_CONFIGURATIONS: Kind[FelixConfiguration] = _calico(
    "FelixConfiguration", "felixconfigurations", decode_felix, encode_felix
)
NODES: Kind[Node] = Kind("Node", "", "v1", "nodes", decode_node, encode_node, metadata_only=True)

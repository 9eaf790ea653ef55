"""The configuration file, word by word, and that nothing gets in which is not meant to."""

import base64
import re
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from calico_py.bgp.exabgp_config import BRIDGE, ConfigError, SpeakerFiles, render, write
from calico_py.model.bgp import Peer

FILES = SpeakerFiles(Path("/run/x"))
FOUR = Peer(
    name="Mesh_10_0_0_2",
    address=ip_address("10.0.0.2"),
    local_address=ip_address("10.0.0.1"),
    local_as=64512,
    peer_as=64512,
    router_id="10.0.0.1",
)
SIX = replace(
    FOUR,
    address=ip_address("fd00::2"),
    local_address=ip_address("fd00::1"),
    peer_as=4200000000,
    port=1790,
    listen_port=1791,
    hold_time=30,
    restart_time=0,
    passive=True,
    password='se"cret;}\n',
)

GOLDEN = """\
process bridge {
  run "PYTHON" "-I" "-S" "BRIDGE" "/run/x/bgp.sock" "/run/x/bgp-announced.json" "DIGEST";
  encoder json;
}
neighbor 10.0.0.2 {
  description "DIGEST";
  router-id 10.0.0.1;
  local-address 10.0.0.1;
  local-as 64512;
  peer-as 64512;
  hold-time 90;
  listen 179;
  connect 179;
  passive false;
  manual-eor true;
  group-updates false;
  adj-rib-in false;
  adj-rib-out true;
  family { ipv4 unicast; }
  capability { graceful-restart 120; route-refresh enable; add-path receive; }
  api { processes [ bridge ]; receive { parsed; update; open; notification; } neighbor-changes; }
}
neighbor fd00::2 {
  description "DIGEST";
  router-id 10.0.0.1;
  local-address fd00::1;
  local-as 64512;
  peer-as 4200000000;
  hold-time 30;
  listen 1791;
  connect 1790;
  passive true;
  manual-eor true;
  group-updates false;
  adj-rib-in false;
  adj-rib-out true;
  md5-password "SECRET";
  md5-base64 true;
  family { ipv6 unicast; }
  capability { graceful-restart disable; route-refresh enable; add-path receive; }
  api { processes [ bridge ]; receive { parsed; update; open; notification; } neighbor-changes; }
}
"""


def test_golden() -> None:
    text, digest = render([SIX, FOUR], files=FILES)
    text = text.replace(digest, "DIGEST").replace(str(BRIDGE), "BRIDGE")
    text = re.sub(r'run "/[^"]*python[^"]*"', 'run "PYTHON"', text)
    assert text == GOLDEN.replace("SECRET", base64.b64encode(SIX.password.encode()).decode())


def test_the_order_makes_no_difference_and_every_field_does() -> None:
    assert render([FOUR, SIX], files=FILES) == render([SIX, FOUR], files=FILES)
    digests = {
        render([peer], files=FILES)[1]
        for peer in (
            FOUR,
            replace(FOUR, hold_time=30),
            replace(FOUR, passive=True),
            replace(FOUR, port=180),
            replace(FOUR, listen_port=180),
            replace(FOUR, password="a"),
            replace(FOUR, password="b"),
            replace(FOUR, restart_time=1),
            replace(FOUR, router_id="10.0.0.3"),
        )
    }
    assert len(digests) == 9


@pytest.mark.parametrize(
    ("peer", "word"),
    [
        (replace(FOUR, local_as=0), "local AS is 0"),
        (replace(FOUR, peer_as=2**32), "peer AS is 4294967296"),
        (replace(FOUR, port=0), "port is 0"),
        (replace(FOUR, listen_port=65536), "listenPort is 65536"),
        (replace(FOUR, hold_time=2), "hold time is 2"),
        (replace(FOUR, restart_time=4096), "restart time is 4096"),
        (replace(FOUR, router_id="x; }"), "router id is 'x; }'"),
        (replace(FOUR, local_address=ip_address("fd00::1")), "other family"),
        (replace(FOUR, password="x" * 81), "longer than 80 bytes"),
    ],
)
def test_a_field_out_of_range_is_named(peer: Peer, word: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(word)) as error:
        render([peer], files=FILES)
    assert "10.0.0.2" in str(error.value)


def test_a_path_that_cannot_be_quoted_is_refused() -> None:
    with pytest.raises(ConfigError, match="another directory"):
        render([], files=SpeakerFiles(Path('/run/a"b')))


def test_the_file_is_replaced_at_once_and_is_roots_alone(tmp_path: Path) -> None:
    path = tmp_path / "exabgp.conf"
    write(path, "one")
    write(path, "two")
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]

"""The folders of a node in which calico-py's processes meet each other, and their next lives."""

from pathlib import Path

RUN = Path("/run/calico-py")
"""Sockets and what else a boot ends."""

STATE = Path("/var/lib/calico-py")
"""What outlives a boot: DELs that wait, the journal, old values of settings."""

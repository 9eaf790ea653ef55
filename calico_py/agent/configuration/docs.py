"""Writes docs/configuration.md from the table of settings: ``python -m calico_py.agent.configuration.docs``."""

import sys
from collections.abc import Iterator
from typing import Any

from calico_py.agent.configuration.config import CONFIG_FILE
from calico_py.agent.configuration.setting import Section, Setting
from calico_py.agent.configuration.settings import SETTINGS, WITHOUT_EFFECT
from calico_py.agent.configuration.spellings import Method

_INTRODUCTION = f"""\
# Configuration of the agent

This page is made from the code by `make docs`; change `calico_py/agent/configuration/settings.py` instead.

A setting is looked up in this order, and the first place that has it counts:

1. the flags of `calico-py node` (`--set NAME=VALUE` for any setting, and those named below),
2. the environment,
3. the file `{CONFIG_FILE}`, a YAML mapping with the same names as keys,
4. the default.

Names are Calico's where Calico has the setting, with Calico's spellings, so that a manifest goes on to work. An empty
value counts as none. A value that is not among those allowed ends the agent at its start with the list of those that
are; all such values are named at once. Settings are read once, when the agent starts.

One spelling differs from Calico's: a boolean must be true, 1, yes, y, t, on or false, 0, no, n, f, off in any case.
Calico takes everything that it does not know for true.
"""

_POOLS = """\
The environment makes a pool of a family only where the cluster has none, and it owns the pool that it made until a
person edits it, field by field: a variable that changes in the DaemonSet changes the pool when the new pods start, as
long as nobody has edited that field since. An older pod that restarts during a rollout changes nothing. A pool that
people made, and a field that they edited, wins over the environment; `calico-py status` and an Event name what differs.
"""

_METHODS = {
    Method.DEFAULT: "Kubernetes' InternalIP of the node if a device of the host has it; else an address of the device "
    "of the default route, one in its gateway's subnet first.",
    Method.FIRST_FOUND: "Calico's default: the devices from the last to the first without those of container engines "
    "and tunnels, the first address of the first that has one.",
    Method.INTERFACE: "`interface=REGEX[,REGEX]`: the same among the devices whose name matches an expression.",
    Method.SKIP_INTERFACE: "`skip-interface=REGEX[,REGEX]`: as first-found, without the devices whose name matches.",
    Method.CAN_REACH: "`can-reach=HOST`: the source address that the kernel takes towards a host. Nothing is sent.",
    Method.CIDR: "`cidr=CIDR[,CIDR]`: the first address in one of the networks.",
    Method.INTERNAL_IP: "Kubernetes' InternalIP, or nothing.",
}

_ADDRESSES = "An address that was chosen is kept while the host has it and the method allows it. The methods:\n\n"


def render() -> str:
    """The page."""
    parts = [_INTRODUCTION]
    for section in Section:
        parts.append(f"## {section}\n")
        if section == Section.POOLS:
            parts.append(_POOLS)
        parts.append("| setting | values | default | meaning |\n|---|---|---|---|")
        parts.extend(_row(setting) for setting in SETTINGS if setting.section == section)
        parts.append("")
        if section == Section.NODE:
            rows = "\n".join(f"- `{method}`: {text}" for method, text in _METHODS.items())
            parts.append(f"{_ADDRESSES}{rows}\n")
    parts.append("## Calico's variables that have no effect\n")
    parts.append(
        "They are accepted; `calico-py status` names those that are set. So are all others that begin with `FELIX_`.\n"
    )
    parts.append("| variable | why |\n|---|---|")
    parts.extend(f"| `{name}` | {why} |" for name, why in sorted(WITHOUT_EFFECT.items()))
    return "\n".join(parts) + "\n"


def _row(setting: Setting[Any]) -> str:
    default = setting.default_text or (f"`{setting.default}`" if setting.default else "none")
    return f"| `{setting.name}` | {setting.values} | {default} | {' '.join(_meaning(setting))} |"


def _meaning(setting: Setting[Any]) -> Iterator[str]:
    yield setting.description
    if setting.flag:
        yield f"Flag `{setting.flag}`."
    if setting.aliases:
        yield f"Also {', '.join(f'`{alias}`' for alias in setting.aliases)}."


if __name__ == "__main__":
    sys.stdout.write(render())

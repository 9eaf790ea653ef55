"""KubeControllersConfiguration: Calico's settings of the cluster-wide work, as far as calico-py's leader obeys them."""

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from calico_py.model import names
from calico_py.model.codec import decode_meta
from calico_py.model.meta import Meta
from calico_py.model.net import InvalidError
from calico_py.model.store import Json, Kind

_FIELD = "spec.controllers.node.leakGracePeriod"
_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s)")
_UNITS = {
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}


@dataclass(frozen=True, slots=True)
class KubeControllersConfiguration:
    """Settings of the cluster-wide work; object ``default``.

    Attributes:
        leak_grace_period: how long an address must look leaked before it is freed, zero for never; None where the
            object does not say.
    """

    meta: Meta
    leak_grace_period: timedelta | None = None


def parse_duration(text: str, *, field: str) -> timedelta:
    """A duration as Go prints it, such as ``15m0s``.

    Raises:
        InvalidError: the text is none, or is negative.
    """
    if text == "0":
        return timedelta(0)
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidError(field, text, "a duration such as 15m or 1h30m")
    return sum((float(number) * _UNITS[unit] for number, unit in parts), timedelta(0))


def _decode(obj: Json) -> KubeControllersConfiguration:
    node = ((obj.get("spec") or {}).get("controllers") or {}).get("node") or {}
    text = node.get("leakGracePeriod")
    grace = parse_duration(str(text), field=_FIELD) if text else None
    return KubeControllersConfiguration(decode_meta(obj), grace)


def _encode(config: KubeControllersConfiguration) -> dict[str, Any]:
    """For its creation: an object that is there is a person's."""
    grace = config.leak_grace_period
    node = {} if grace is None else {"leakGracePeriod": f"{grace.total_seconds()}s"}
    return {
        "apiVersion": f"{names.GROUP}/{names.VERSION}",
        "kind": "KubeControllersConfiguration",
        "metadata": {"name": config.meta.name},
        "spec": {"controllers": {"node": node}},
    }


KUBE_CONTROLLERS_CONFIGURATIONS: Kind[KubeControllersConfiguration] = Kind(
    "KubeControllersConfiguration",
    names.GROUP,
    names.VERSION,
    "kubecontrollersconfigurations",
    _decode,
    _encode,
)

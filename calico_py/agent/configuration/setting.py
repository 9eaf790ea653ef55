"""What a setting of the agent is."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Section(StrEnum):
    """Headings of docs/configuration.md."""

    NODE = "The node and its address"
    POOLS = "The pools that the environment makes"
    NETWORK = "Routes, tunnels and addresses"
    PROCESS = "The process"


@dataclass(frozen=True, slots=True)
class Setting(Generic[T]):
    """One setting.

    Attributes:
        default: as a person would write it.
        parse: raises SpellingError with the phrase that lists what is allowed.
        values: what is allowed, for the documentation.
        default_text: what the default comes to, where that is not plain from it.
        aliases: other names, of Calico's, that mean the same; the name itself wins.
        flag: of ``calico-py node``.
    """

    name: str
    default: str
    parse: Callable[[str], T]
    section: Section
    values: str
    description: str
    default_text: str = ""
    aliases: tuple[str, ...] = ()
    flag: str = ""

"""nftables by its own tool, nft(8): one process for each question or transaction.

What the rules are is nft.py's.
"""

import asyncio
import json
import re
from collections.abc import Sequence

from calico_py.model.kernel import NftTable

# Seconds. The kernel takes one transaction at a time, and another program's may be large; nothing else is waited for.
PATIENCE = 30.0

_OURS = "calico-py"
_COMMENT = re.compile(r'^\tcomment "calico-py ([0-9a-f]+), rules: (\d+)"$', re.MULTILINE)
_CHAIN = re.compile(r"^\tchain \S+ \{\n(.*?)^\t\}", re.MULTILINE | re.DOTALL)


class NftError(Exception):
    """nft refused; the text is its own."""


class NftMissingError(NftError):
    """There is no program nft in PATH."""


def is_ours(name: str) -> bool:
    """Whether a table of that name is calico-py's: it, and those whose names continue with a hyphen."""
    return name == _OURS or name.startswith(f"{_OURS}-")


async def list_tables() -> list[NftTable]:
    """All tables; the digest of those that are ours.

    nft 1.0 leaves a table's comment out of its JSON, so that is read from the text.

    Raises:
        NftError: nft is missing or failed.
    """
    answer = json.loads(await _run("-j", "list", "tables"))
    tables = []
    for entry in answer["nftables"]:
        if "table" not in entry:
            continue
        family, name = entry["table"]["family"], entry["table"]["name"]
        digest = await _read_digest(family, name) if is_ours(name) else ""
        tables.append(NftTable(family, name, digest=digest))
    return tables


async def _read_digest(family: str, name: str) -> str:
    try:
        text = await _run("--terse", "list", "table", family, name)
    except NftMissingError:
        raise
    except NftError:
        return ""  # it went away in between
    found = _COMMENT.search(text)
    if found is None or count_rules(text) != int(found.group(2)):
        return ""  # not as we made it, or rules were taken out or added since
    return found.group(1)


def count_rules(text: str) -> int:
    """Rules in a table's text, ours or nft's: the lines of its chains but for that of the hook."""
    lines = (line.strip() for chain in _CHAIN.findall(text) for line in chain.splitlines())
    return sum(not line.startswith("type ") for line in lines)


async def put_table(table: NftTable) -> None:
    """Make the table, or replace all that is in it, in one transaction.

    Raises:
        NftError: nft is missing or refused.
    """
    head = f"table {table.family} {table.name}"
    mark = f"calico-py {table.digest}, rules: {count_rules(table.rules)}"
    comment = f'\tcomment "{mark}"\n' if table.digest else ""
    await _run("-f", "-", text=f"{head}\ndelete {head}\n{head} {{\n{comment}{table.rules}\n}}\n")


async def delete_table(table: NftTable) -> None:
    """Remove the table; that there is none is success.

    Raises:
        NftError: nft is missing or refused.
    """
    head = f"table {table.family} {table.name}"
    await _run("-f", "-", text=f"{head}\ndelete {head}\n")


async def _run(*arguments: str, text: str = "") -> str:
    command: Sequence[str] = ("nft", *arguments)
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError:
        raise NftMissingError("the program nft is not in PATH") from None
    except OSError as error:  # no permission, or no memory, process or descriptor left
        raise NftError(f"the program nft cannot be started: {error.strerror}") from None
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate(text.encode())
    except TimeoutError:
        raise NftError(f"{' '.join(command)} did not end within {PATIENCE:g} s and was killed") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise NftError(" ".join(err.decode(errors="replace").split()))
    return out.decode()

"""The demo."""

from rich.console import Console


def run(name: str, picture: str, console: Console) -> None:
    """Not yet."""
    console.print(name, picture)

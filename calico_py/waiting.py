"""Waiting for an event, but not for ever."""

import asyncio


async def came(event: asyncio.Event, within: float | None) -> bool:
    """Whether the event came before so many seconds were over; None waits for as long as it takes.

    Not asyncio.wait_for: in Python 3.11 it swallows a cancellation that comes together with the event.
    """
    try:
        async with asyncio.timeout(within):
            return await event.wait()
    except TimeoutError:
        return event.is_set()

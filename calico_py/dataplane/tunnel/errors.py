"""What the engine raises."""


class TunnelError(Exception):
    """The engine cannot work; the message says why and what to do."""


class DeviceGoneError(Exception):
    """The device was deleted under its descriptor."""

"""Messages over a stream: four bytes of length, then JSON. Nothing a peer sends can do more than end it."""

from __future__ import annotations

import json
import os
from typing import Any

LARGEST = 128 << 20
"""Of a message between two sandboxes, in bytes."""
HEADER = 4


def send(channel: int, message: Any) -> None:
    """Write one message to a file descriptor; raises OSError when the peer is gone."""
    forward(channel, json.dumps(message).encode())


def forward(channel: int, text: bytes) -> None:
    """Write one message that is JSON already; raises as `send`."""
    data = memoryview(len(text).to_bytes(HEADER, "big") + text)
    while data:
        data = data[os.write(channel, data) :]


def receive(channel: int, largest: int = LARGEST) -> bytes | None:
    """The next message as it came; None when the peer is gone or says nonsense."""
    header = _exactly(channel, HEADER)
    if header is None:
        return None
    length = int.from_bytes(header, "big")
    return _exactly(channel, length) if length <= largest else None


def _exactly(channel: int, length: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < length:
        try:
            part = os.read(channel, min(1 << 20, length - len(parts)))
        except ConnectionError:
            return None
        if not part:
            return None
        parts += part
    return bytes(parts)

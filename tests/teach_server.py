"""A service of `opdlab teach` in a thread of the test's own process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from opdlab.service import Asked, Service, open_service


@dataclass
class Teaching:
    """A running service."""

    url: str
    service: Service


@contextmanager
def teaching(model: str, port: int = 0, **asked: Any) -> Iterator[Teaching]:
    """Within, the model is served."""
    with (
        socket.create_server(("127.0.0.1", port)) as listener,
        open_service(Asked(model, **asked)) as service,
    ):
        config = uvicorn.Config(
            service.app, log_level="warning", access_log=False, lifespan="off", ws="none"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield Teaching(f"http://127.0.0.1:{listener.getsockname()[1]}", service)
        finally:
            server.should_exit = True
            thread.join()

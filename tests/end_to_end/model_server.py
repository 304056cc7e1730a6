"""A real server of a model for tests: `transformers serve`, started, killed and started again."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Self

import requests
from end_to_end.servers import free_port
from end_to_end.warm import Command, warm


class TransformersServer:
    """`transformers serve` on one model."""

    def __init__(self, model: Path) -> None:
        self.model, self.port = model, free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.process: Command | None = None

    def start(self, wait: bool = True) -> None:
        place = ["--port", str(self.port), "--host", "127.0.0.1"]
        command = ["serve", str(self.model), *place, "--device", "cpu"]
        self.process = warm().start(command, os.environ, "transformers.cli.transformers:main")
        deadline = time.monotonic() + 120
        while wait and time.monotonic() < deadline:
            try:
                if requests.get(f"http://127.0.0.1:{self.port}/health", timeout=2).ok:
                    return
            except requests.RequestException:
                assert self.process.poll() is None, "transformers serve ended"
                time.sleep(0.2)
        assert not wait, "transformers serve did not start"

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.communicate()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

"""A real server of a model for tests: `transformers serve`, started, killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import requests
from end_to_end.servers import free_port


class TransformersServer:
    """`transformers serve` on one model."""

    def __init__(self, model: Path) -> None:
        self.model, self.port = model, free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True) -> None:
        code = "from transformers.cli.transformers import main; main()"
        command = [sys.executable, "-W", "ignore", "-c", code, "serve", str(self.model)]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port), "--host", "127.0.0.1", "--device", "cpu"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
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
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

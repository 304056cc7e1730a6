"""What several unit tests start once."""

from collections.abc import Iterator

import pytest
from machine import need_sandbox

from opdlab_evaluators.programs.judging import Worker


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """A process that judges programs in the sandbox."""
    need_sandbox()
    worker = Worker()
    worker.start()
    yield worker
    worker.close()

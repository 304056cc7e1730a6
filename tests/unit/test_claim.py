"""Who is named as the holder of a folder."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from filelock import FileLock

from opdlab.errors import ResumeError
from opdlab.training.claim import LOCK, OWNER, claimed


def refused(folder: Path) -> str:
    with pytest.raises(ResumeError) as caught, claimed(folder):
        pass
    return str(caught.value)


def test_a_folder_in_use_names_the_process_that_holds_it(tmp_path: Path) -> None:
    with claimed(tmp_path):
        assert f"process {os.getpid()} on {socket.gethostname()}" in refused(tmp_path)
    assert not (tmp_path / OWNER).exists()


@pytest.mark.parametrize("pid", [os.getpid(), 2**22 + 1], ids=["used_again", "ended"])
def test_the_name_that_a_killed_process_left_is_not_that_of_the_holder(
    tmp_path: Path, pid: int
) -> None:
    left = {"pid": pid, "host": socket.gethostname(), "started": 1.0}
    (tmp_path / OWNER).write_text(json.dumps(left))
    with FileLock(tmp_path / LOCK):
        assert "is in use by another process." in refused(tmp_path)
    with claimed(tmp_path):
        assert f"process {os.getpid()}" in refused(tmp_path)

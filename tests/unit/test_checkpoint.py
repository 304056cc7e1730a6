"""Checkpoints: damaged ones are refused, and none holds numbers that no run could go on from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from opdlab.errors import NonFiniteError, ResumeError
from opdlab.files.claim import claimed
from opdlab.training.checkpoint import (
    AtomicCheckpointIO,
    read_checkpoint,
    refuse_non_finite,
    require_own,
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "last.ckpt"
    content = {"state_dict": {"w": torch.randn(64, 64)}, "epoch": 3, "names": ["a", "b"]}
    AtomicCheckpointIO().save_checkpoint(content, path)
    return path


def test_a_whole_checkpoint_is_read(checkpoint: Path) -> None:
    assert read_checkpoint(checkpoint)["epoch"] == 3


def test_a_changed_bit_in_any_part_of_a_checkpoint_is_noticed(checkpoint: Path) -> None:
    good = checkpoint.read_bytes()
    with zipfile.ZipFile(checkpoint) as archive:
        members = archive.infolist()
        raw = {m.filename: archive.read(m) for m in members}
    for content in raw.values():
        at = good.index(content) + len(content) // 2
        checkpoint.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises(ResumeError, match="is damaged"):
            read_checkpoint(checkpoint)


def test_a_member_that_a_flipped_bit_makes_a_folder_is_refused(tmp_path: Path) -> None:
    """Torch would read nothing of it, and take what its memory held for the weights."""
    path, weight = tmp_path / "last.ckpt", torch.arange(1.0, 7.0)
    torch.save({"weight": weight}, path)
    whole, refused = path.read_bytes(), 0
    for place in range(whole.index(b"PK\x01\x02"), len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            assert torch.equal(read_checkpoint(path)["weight"], weight)
        except ResumeError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("content", [b"", bytes(3000), b"hello world\n" * 50])
def test_what_is_no_checkpoint_is_refused(checkpoint: Path, content: bytes) -> None:
    checkpoint.write_bytes(content)
    with pytest.raises(ResumeError, match="is damaged"):
        read_checkpoint(checkpoint)


def test_a_checkpoint_that_was_cut_anywhere_is_refused(checkpoint: Path) -> None:
    good = checkpoint.read_bytes()
    for length in range(1, len(good), 997):
        checkpoint.write_bytes(good[:length])
        with pytest.raises(ResumeError, match="is damaged"):
            read_checkpoint(checkpoint)


def state(weight: float, average: float) -> dict[str, object]:
    return {
        "state_dict": {"w": torch.tensor([1.0, weight])},
        "optimizer_states": [{"state": {0: {"exp_avg_sq": torch.tensor([average])}}}],
        "global_step": 7,
    }


def test_finite_weights_may_be_kept() -> None:
    refuse_non_finite(state(1.0, 1.0), {})


def test_entries_that_a_model_rules_out_from_the_beginning_may_be_kept() -> None:
    refuse_non_finite(state(-torch.inf, 1.0), {"w": 1})


@pytest.mark.parametrize(
    ("weight", "average", "said"),
    [(torch.nan, 1.0, "first w"), (torch.inf, 1.0, "first w"), (1.0, torch.inf, "exp_avg_sq")],
)
def test_no_checkpoint_holds_nan(weight: float, average: float, said: str) -> None:
    with pytest.raises(NonFiniteError, match=f"after step 7, {said}" if weight != 1 else said):
        refuse_non_finite(state(weight, average), {})


def test_a_folder_in_use_is_refused_by_the_name_of_its_process(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from opdlab.files import claimed\n"
        "with claimed(Path(sys.argv[1])):\n"
        "    print('mine', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        with (
            pytest.raises(ResumeError, match=f"in use by process {other.pid} on "),
            claimed(tmp_path),
        ):
            pass
        other.kill()
        other.wait()
    with claimed(tmp_path):
        assert json.loads((tmp_path / ".process.json").read_text())["pid"] == os.getpid()
    with claimed(tmp_path):
        pass


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    require_own({"opdlab": {"execution": "a"}}, "a", path)
    require_own({"opdlab": {}}, "a", path)  # of an earlier version
    require_own({"opdlab": {"execution": "a"}}, "", path)
    with pytest.raises(ResumeError, match=f"{path} is of the training b, not of this one .a."):
        require_own({"opdlab": {"execution": "b"}}, "a", path)

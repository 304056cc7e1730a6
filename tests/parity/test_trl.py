"""The loss and its gradient are those of TRL's DistillationTrainer on the same tokens."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("trl", reason="trl is not installed: pip install 'opdlab[compare]'")


@pytest.mark.filterwarnings("ignore")
def test_the_loss_of_opd_is_that_of_trl(tmp_path: Path) -> None:
    # Imported here, where trl is known to be there.
    from parity.peer_trl import Ours, Theirs, embedded, our_loss

    config = embedded("opd")
    ours, theirs = Ours(config), Theirs(config, tmp_path)
    student = ours.pair.student
    theirs.trainer.model = student
    prompts = [ours.module.prompts.prompt(index).tokens for index in range(8)]
    rollout = config.rollout.sample(
        student,
        prompts,
        list(range(8)),
        eos_ids=ours.module.subject.eos_ids,
        pad_id=ours.module.subject.pad_id,
        vocabulary=ours.pair.vocabulary,
    )
    found = []
    for loss in (lambda: our_loss(ours, rollout), lambda: theirs.loss(rollout, student)):
        student.zero_grad()
        value = loss()
        value.backward()
        gradients = [p.grad.clone() for p in student.parameters() if p.grad is not None]
        found.append((value.detach(), gradients))
    assert float(found[0][0]) > 0.1
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-5)
    for mine, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)

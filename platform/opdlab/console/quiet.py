"""Third-party noise that tells the person at the terminal nothing, by name."""

from __future__ import annotations

import logging
import warnings


def quieten() -> None:
    """Silence known messages; anything new still shows."""
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Of kernels for a CPU that can be had beside it.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # Lightning asks torch in a way that torch has renamed.
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    # The scaler of `16-mixed` may pass over the first steps, and torch takes that for a mistake.
    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
    # Its data are a count of steps; the prompts go on from the module's own place.
    warnings.filterwarnings("ignore", message="(?s).*your dataloader is not resumable.*")

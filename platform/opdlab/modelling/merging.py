"""`opdlab merge`: a whole model from adapters and the model that they belong to."""

from __future__ import annotations

from pathlib import Path

from opdlab.console import quieten
from opdlab.errors import ModelError
from opdlab.files import is_there, whole_folder
from opdlab.modelling import adapters, models


def merge(source: str, target: Path, dtype: str) -> Path:
    """Write a model that says what another says with its adapters, as transformers reads it.

    Args:
        source: a folder with adapters, or of a run that trained some.
        target: a folder that is not there yet, or empty.
        dtype: number format of the weights, one of `models.DTYPES`; in half precision small changes are
            rounded away.

    Raises:
        ModelError: there are no adapters, they do not fit, or `target` holds something.
    """
    inside = Path(source) / "model"
    folder = models.adapted(str(inside) if inside.is_dir() else source)
    if folder is None:
        raise ModelError(
            f"{source}: no adapters there ({adapters.CONFIG}); a student trained without adapters is "
            "already a whole model"
        )
    if is_there(target) and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target} is there already; name a new folder")
    quieten()
    model = adapters.whole(models.load_model(str(folder)), models.DTYPES[dtype])
    tokenizer = models.load_tokenizer(str(folder))
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(target) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        if execution := models.trained_by(str(folder)):
            models.sign(partial, execution)
    return target

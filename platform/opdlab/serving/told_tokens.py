"""Next-token distributions of which a server tells the likeliest tokens: -1, after the others, is none.

The rest of the probability is in equal parts that of all others, none of them likelier than a token that
was told: else the likeliest tokens would not be those.
"""

from __future__ import annotations

import torch

from opdlab.modelling import FLOOR, Listed
from opdlab.shapes import Float, Int, Tensor


def listed(ids: Int[Tensor, "T K"], log_prob: Float[Tensor, "T K"], entries: int) -> Listed | None:
    """The tokens that were told, and all others as one; None where none was told of some distribution."""
    if (ids[:, :1] < 0).any():
        return None
    each, others = _of_each_other(ids, log_prob, entries)
    rest = (each * others).log().float()[:, 0]
    return Listed(ids, log_prob.clamp(min=FLOOR), rest).likeliest(entries - 1)


def spread_out(
    ids: Int[Tensor, "C K"], log_prob: Float[Tensor, "C K"], entries: int
) -> Float[Tensor, "C V"]:
    """The same over the whole vocabulary, as log-probabilities."""
    filler = _of_each_other(ids, log_prob, entries)[0].log().float()
    whole = filler.expand(-1, entries).clone()
    padded = torch.cat([whole, filler], -1)  # a column beyond takes what is not a token
    places = ids.masked_fill(ids < 0, entries)
    return padded.scatter(-1, places, log_prob.clamp(min=FLOOR))[:, :entries]


def _of_each_other(
    ids: Int[Tensor, "C K"], log_prob: Float[Tensor, "C K"], entries: int
) -> tuple[Float[Tensor, "C one"], Int[Tensor, "C one"]]:
    """Probability of each token that was not told, in float64, and how many these are."""
    known = log_prob.double().exp()
    lowest = known.masked_fill(ids < 0, torch.inf).amin(-1, keepdim=True)
    others = (entries - (ids >= 0).sum(-1, keepdim=True)).clamp(min=1)
    rest = (1 - known.sum(-1, keepdim=True)).clamp(min=0) / others
    return torch.minimum(rest, lowest).clamp(min=1e-30), others

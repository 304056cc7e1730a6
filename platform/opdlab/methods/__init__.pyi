from .base import Contract as Contract, Method as Method
from .divergences import at as at, policy_gradient as policy_gradient, reverse_kl as reverse_kl
from .lgr import LGR as LGR
from .needs import (
    EVERYTHING as EVERYTHING,
    MEASURES as MEASURES,
    SUPPORTS as SUPPORTS,
    Measure as Measure,
    Needs as Needs,
    Offers as Offers,
    Support as Support,
    unmet as unmet,
)
from .older_samples import TRUNCATION as TRUNCATION, importance as importance, ratios as ratios
from .opd import OPD as OPD
from .sampled import supervision_of as supervision_of
from .sft import SFT as SFT

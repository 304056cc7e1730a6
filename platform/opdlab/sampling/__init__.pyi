from .decode_step import cache_argument as cache_argument
from .decoder import Decoder as Decoder, Room as Room, most_columns as most_columns
from .draws import (
    Recorded as Recorded,
    concatenate as concatenate,
    mixed as mixed,
    record as record,
    weigh as weigh,
)
from .lean_step import LEAN as LEAN
from .manner import FAILURES as FAILURES, Manner as Manner
from .recording import (
    Draw as Draw,
    OnResponse as OnResponse,
    Records as Records,
    refuse_non_finite as refuse_non_finite,
)
from .rescoring import CLIPPED as CLIPPED, scored as scored, surprises as surprises
from .rollout import (
    CachedEngine as CachedEngine,
    GenerateEngine as GenerateEngine,
    RolloutEngine as RolloutEngine,
    assemble as assemble,
    check_prompts as check_prompts,
)
from .state_sizes import held_of_a_token as held_of_a_token

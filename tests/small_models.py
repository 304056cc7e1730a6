"""Random tiny models of many families, and random rollouts for them."""

from opdlab.bench.architectures import (
    FAMILIES as FAMILIES,
    INDEXED as INDEXED,
    OUT_OF_REACH as OUT_OF_REACH,
    OWN_WAYS as OWN_WAYS,
    RECURRENT as RECURRENT,
    STRETCHED as STRETCHED,
    VOCABULARY as VOCABULARY,
)
from opdlab.bench.small_models import (
    random_rollout as random_rollout,
    small_model as small_model,
)

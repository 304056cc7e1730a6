from .chains import with_sampled as with_sampled
from .checks import (
    check_finite as check_finite,
    check_tokens as check_tokens,
    require_one_step as require_one_step,
)
from .leaf_attention import (
    WORTH_A_CALL as WORTH_A_CALL,
    Cut as Cut,
    LeafPass as LeafPass,
    RulePass as RulePass,
    attention_with_lse as attention_with_lse,
    bias_of as bias_of,
    flash_takes as flash_takes,
)
from .length_groups import (
    prefix_states as prefix_states,
    states_before_tokens as states_before_tokens,
)
from .naive import (
    log_probs as log_probs,
    naive_scores as naive_scores,
    row_scores as row_scores,
)
from .packing import packs as packs, parts_of as parts_of
from .pieces import join as join, joined_rollouts as joined_rollouts
from .recurrent_leaves import RecurrentLeaves as RecurrentLeaves
from .scorer import Elsewhere as Elsewhere, Scorer as Scorer
from .shared_prompts import ANY_MASK as ANY_MASK, SharedPass as SharedPass
from .specialists import (
    Specialist as Specialist,
    chosen as chosen,
    score_by_domain as score_by_domain,
)
from .teacher import (
    TRUNK_TOKENS as TRUNK_TOKENS,
    WORTH_SHARING as WORTH_SHARING,
    Teacher as Teacher,
    leaves_at_once as leaves_at_once,
    trunk_piece as trunk_piece,
)
from .tree import (
    Chunk as Chunk,
    Leaves as Leaves,
    States as States,
    chunks as chunks,
    draws as draws,
    leaf_chunks as leaf_chunks,
    leaves as leaves,
    part as part,
    response_states as response_states,
    same_prompts as same_prompts,
    within as within,
)
from .trial import (
    TRIAL_PIECE as TRIAL_PIECE,
    TRIAL_ROWS as TRIAL_ROWS,
    TRIAL_STEPS as TRIAL_STEPS,
    trial_rollout as trial_rollout,
    tried_at_load as tried_at_load,
)
from .trunk import Continuation as Continuation, shared_pass as shared_pass

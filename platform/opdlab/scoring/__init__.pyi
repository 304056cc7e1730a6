from .leaf_attention import (
    LeafPass as LeafPass,
    RulePass as RulePass,
    attention_with_lse as attention_with_lse,
    bias_of as bias_of,
    flash_takes as flash_takes,
    staircase as staircase,
)
from .length_groups import (
    prefix_states as prefix_states,
    states_before_tokens as states_before_tokens,
)
from .naive import naive_scores as naive_scores
from .packing import packs as packs, parts_of as parts_of
from .specialists import (
    Specialist as Specialist,
    chosen as chosen,
    score_by_domain as score_by_domain,
)
from .teacher import (
    TRUNK_TOKENS as TRUNK_TOKENS,
    Teacher as Teacher,
    join as join,
    leaves_at_once as leaves_at_once,
    trunk_piece as trunk_piece,
)
from .tree import (
    Leaves as Leaves,
    leaves as leaves,
    part as part,
    same_prompts as same_prompts,
    within as within,
)

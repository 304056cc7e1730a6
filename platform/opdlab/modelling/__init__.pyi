from . import adapters as adapters, models as models
from .answer_part import (
    marks_of as marks_of,
    own_part as own_part,
    read as read,
    text_of as text_of,
    written as written,
)
from .attention_hook import (
    KeyStore as KeyStore,
    Lines as Lines,
    MaskFunction as MaskFunction,
    Own as Own,
    PackedPass as PackedPass,
    Pass as Pass,
    UnsupportedError as UnsupportedError,
    hooked as hooked,
    running as running,
)
from .cut_layers import (
    drop_layers as drop_layers,
    keep_layers as keep_layers,
    layer_list as layer_list,
    left_out as left_out,
    require_readable as require_readable,
    without_layers as without_layers,
)
from .ends import closing as closing
from .eval_mode import (
    packed_weights as packed_weights,
    quicker_packed as quicker_packed,
    replaced as replaced,
    sampling_mode as sampling_mode,
)
from .exact_numbers import hides_faults as hides_faults, in_float32 as in_float32
from .fetching import Fetched as Fetched, fetch as fetch
from .foreign import (
    code_of as code_of,
    foreign_attention as foreign_attention,
    foreign_code as foreign_code,
)
from .head import (
    TeacherLogits as TeacherLogits,
    TokenLosses as TokenLosses,
    chunked_loss as chunked_loss,
    decoder as decoder,
    flat_states as flat_states,
    head_parameters as head_parameters,
    hidden_states as hidden_states,
    likeliest as likeliest,
    log_distribution as log_distribution,
    logits_of as logits_of,
    project as project,
    rows_at_a_time as rows_at_a_time,
    vocabulary_statistics as vocabulary_statistics,
)
from .layer_takeover import taken_over as taken_over
from .length_dependence import (
    Stretch as Stretch,
    counts_from as counts_from,
    forget as forget,
    original_length as original_length,
    rotary as rotary,
    stretches as stretches,
    thresholds as thresholds,
)
from .linear_rules import Segments as Segments
from .listed import NEVER as NEVER, Listed as Listed
from .merging import merge as merge
from .models import (
    DTYPES as DTYPES,
    load_config as load_config,
    load_tokenizer as load_tokenizer,
    reach as reach,
    use_threads as use_threads,
)
from .offload import OffloadedWeights as OffloadedWeights
from .places import place_of as place_of
from .position_table import learned_positions as learned_positions
from .precision import (
    FLOOR as FLOOR,
    expectation as expectation,
    log_prob as log_prob,
    new_tensors_in_float32 as new_tensors_in_float32,
)
from .prefix_law import (
    Tried as Tried,
    check_prefixes as check_prefixes,
    forget_prefixes as forget_prefixes,
    prefix_gap as prefix_gap,
    prefixes_tried as prefixes_tried,
)
from .recomputed import checkpointed as checkpointed, layers_of as layers_of
from .shards import (
    ShardedWeights as ShardedWeights,
    Weights as Weights,
    WholeWeights as WholeWeights,
)
from .state_cache import (
    State as State,
    StateCache as StateCache,
    row_bytes as row_bytes,
    select as select,
)
from .state_store import StateStore as StateStore
from .stateful_layers import (
    CachedLayer as CachedLayer,
    RecurrentLayer as RecurrentLayer,
    recurrent_layers as recurrent_layers,
    step_by_step as step_by_step,
)
from .sum_orders import (
    ORDERS as ORDERS,
    InParts as InParts,
)
from .unasked import masked_rows as masked_rows, unpacked_rows as unpacked_rows
from .vocabulary_loss import Rows as Rows, slices as slices, token_losses as token_losses
from .wording import Wording as Wording, as_wording as as_wording

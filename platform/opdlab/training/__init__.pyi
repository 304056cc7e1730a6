from . import cards as cards
from .cards import VISIBLE as VISIBLE
from .checkpoint import (
    LAST as LAST,
    AtomicCheckpointIO as AtomicCheckpointIO,
    read_checkpoint as read_checkpoint,
    refuse_non_finite as refuse_non_finite,
)
from .collect import Collector as Collector
from .eval_workers import evaluate_with_workers as evaluate_with_workers
from .fit import (
    require_accelerator as require_accelerator,
    trainer_of as trainer_of,
)
from .given import (
    answer_ids as answer_ids,
    given_responses as given_responses,
    given_rollout as given_rollout,
)
from .grading import outcomes as outcomes
from .group import (
    CONFIG as CONFIG,
    REFERENCES as REFERENCES,
    STATE as STATE,
    Group as Group,
    differences as differences,
    next_folder as next_folder,
    state_of as state_of,
)
from .module import Distillation as Distillation
from .objective import micro_batches as micro_batches, rows_in_parts as rows_in_parts
from .pace import Pace as Pace, checkpoint_path as checkpoint_path
from .pair import (
    Loaded as Loaded,
    Pair as Pair,
    adapt as adapt,
    load_module as load_module,
    load_pair as load_pair,
    load_source as load_source,
    misfit as misfit,
    pair_to_train as pair_to_train,
    require_answered as require_answered,
    require_askable as require_askable,
    require_within as require_within,
    teachers_end as teachers_end,
    working as working,
)
from .processes import (
    HOPELESS as HOPELESS,
    LOG as LOG,
    STOP_S as STOP_S,
    Process as Process,
    Zygote as Zygote,
    dismiss as dismiss,
    end as end,
    give_up as give_up,
    last_words as last_words,
    starter as starter,
)
from .ranks import rank as rank
from .reached import reached_by_a_step as reached_by_a_step
from .results import Run as Run, Trained as Trained
from .run import (
    Session as Session,
    follow_group as follow_group,
    measure_reference as measure_reference,
    train as train,
    train_one as train_one,
)
from .stored_answers import require_ends as require_ends
from .teachers import (
    contents as contents,
    contexts as contexts,
    expect as expect,
    make_scorer as make_scorer,
)
from .watch import STUDENTS as STUDENTS, keep_copy as keep_copy, rollout_table as rollout_table
from .weights import token_weights as token_weights
from .whole_step import Place as Place
from .workers import train_with_workers as train_with_workers

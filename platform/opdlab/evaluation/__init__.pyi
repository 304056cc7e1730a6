from . import comparison as comparison, over_seeds as over_seeds, store as store
from .comparison import (
    STYLE as STYLE,
    find_run as find_run,
    last_sets as last_sets,
    unanswered as unanswered,
)
from .disputes import DISPUTED as DISPUTED
from .exports import export as export
from .measured import (
    ALONE as ALONE,
    Share as Share,
    all_answers as all_answers,
    asked_of as asked_of,
    decode as decode,
    draw_missing as draw_missing,
    evaluate as evaluate,
    grade_missing as grade_missing,
    headline as headline,
    judge as judge,
    require as require,
    sample_seed as sample_seed,
    sampling_engine as sampling_engine,
)
from .measuring import (
    draw_share as draw_share,
    evaluate_alone as evaluate_alone,
    label_of as label_of,
    measure as measure,
    record_withdrawn as record_withdrawn,
)
from .power import show as show
from .rating import rate as rate, rates_of as rates_of
from .regrading import evaluator_of as evaluator_of, regrade as regrade
from .results import Comparison as Comparison, Scores as Scores
from .served import open_served as open_served
from .side_by_side import (
    compare as compare,
    require_different as require_different,
    short_names as short_names,
)
from .store import SampleSet as SampleSet, data_hash as data_hash
from .subjects import Measured as Measured, Subject as Subject
from .withdrawing import withdraw_unproven as withdraw_unproven

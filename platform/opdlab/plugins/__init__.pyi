from . import declared as declared, posed as posed, returned as returned
from .declared import valid as valid
from .evaluator import (
    RIGHT_TRIALS as RIGHT_TRIALS,
    WRONG_TRIALS as WRONG_TRIALS,
    DataReport as DataReport,
    Evaluator as Evaluator,
    Trial as Trial,
)
from .grader import Grader as Grader
from .registry import (
    DASHBOARDS as DASHBOARDS,
    EVALUATORS as EVALUATORS,
    GRADERS as GRADERS,
    METHODS as METHODS,
    MOVED as MOVED,
    ROLLOUTS as ROLLOUTS,
    SECTIONS as SECTIONS,
    STATISTICS as STATISTICS,
    Named as Named,
    OneOf as OneOf,
    PluginError as PluginError,
    called as called,
    describe as describe,
    load as load,
    made as made,
    names as names,
    options_model as options_model,
    package as package,
    summary as summary,
    type_name as type_name,
    working as working,
)
from .returned import name_of as name_of, said_by as said_by
from .strict import strictly as strictly
from .verdicts import verdicts_on as verdicts_on

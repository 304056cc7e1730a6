from .api import (
    Scored as Scored,
    Teacher as Teacher,
    compare as compare,
    diagnose as diagnose,
    distillation as distillation,
    evaluate as evaluate,
    load as load,
    plan as plan,
    plan_scores as plan_scores,
    score as score,
    train as train,
)
from .scores import Scores as Scores
from .training import Distillation as Distillation

__version__: str

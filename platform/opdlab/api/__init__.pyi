from .commands import (
    compare as compare,
    diagnose as diagnose,
    evaluate as evaluate,
    load as load,
    plan as plan,
    train as train,
)
from .stored_scores import plan_scores as plan_scores, score as score
from .teacher import Scored as Scored, Teacher as Teacher
from .trainer import distillation as distillation

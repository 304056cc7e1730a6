from .commands import (
    compare as compare,
    diagnose as diagnose,
    evaluate as evaluate,
    load as load,
    plan as plan,
    train as train,
)
from .teacher import Scored as Scored, Teacher as Teacher
from .trainer import distillation as distillation

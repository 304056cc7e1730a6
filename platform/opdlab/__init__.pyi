from .api import (
    Scored as Scored,
    Teacher as Teacher,
    compare as compare,
    diagnose as diagnose,
    distillation as distillation,
    evaluate as evaluate,
    load as load,
    plan as plan,
    train as train,
)
from .training import Distillation as Distillation

__version__: str

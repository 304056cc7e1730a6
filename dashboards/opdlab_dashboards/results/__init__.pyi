from . import (
    measured as measured,
    mlflow_copy as mlflow_copy,
    published as published,
    records as records,
    swept as swept,
)
from .board import AVERAGE as AVERAGE, Board as Board, Leaderboard as Leaderboard, build as build
from .curves import (
    CURVES as CURVES,
    SHARES as SHARES,
    Curve as Curve,
    fidelity_curves as fidelity_curves,
    training_curves as training_curves,
)
from .differences import Difference as Difference, pairs as pairs
from .live_runs import (
    Reader as Reader,
    Scene as Scene,
    Watched as Watched,
    newest as newest,
    scene as scene,
    watched as watched,
)
from .measured import (
    REFERENCES as REFERENCES,
    SAMPLES as SAMPLES,
    Measured as Measured,
    find as find,
    without_copies as without_copies,
)
from .rounding import interval as interval, short as short, with_interval as with_interval
from .rows import Cell as Cell, Row as Row, Score as Score
from .settings import in_short as in_short, varied as varied
from .swept import Swept as Swept

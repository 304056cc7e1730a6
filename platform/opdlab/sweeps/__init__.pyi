from .extent import (
    outermost as outermost,
)
from .metrics import (
    misnamed as misnamed,
)
from .run import (
    sweep as sweep,
)
from .settings import (
    DIMENSION_KEYS as DIMENSION_KEYS,
    Choice as Choice,
    Dimension as Dimension,
    Sweep as Sweep,
    chosen_values as chosen_values,
    replaced as replaced,
    tries as tries,
)

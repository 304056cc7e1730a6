from .extent import outermost as outermost
from .run import sweep as sweep
from .settings import Sweep as Sweep, sweep_of as sweep_of

from .footprint import (
    activations as activations,
    attended as attended,
    cached as cached,
    kept_for_backward as kept_for_backward,
    memory as memory,
    scoring as scoring,
    sizes as sizes,
)
from .plan import show as show

from .cards import card_of as card_of
from .footprint import (
    activations as activations,
    attended as attended,
    cached as cached,
    kept_for_backward as kept_for_backward,
    scoring as scoring,
    sizes as sizes,
)
from .memory import memory as memory
from .plan import Asked as Asked, show as show, show_on as show_on
from .room import explaining as explaining, require_room as require_room

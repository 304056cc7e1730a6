from .cards import Card as Card, card_of as card_of, known_card as known_card
from .footprint import (
    activations as activations,
    attended as attended,
    cached as cached,
    kept_for_backward as kept_for_backward,
    scoring as scoring,
    sizes as sizes,
)
from .memory import PHASES as PHASES, memory as memory
from .plan import Asked as Asked, show as show, show_on as show_on
from .room import explaining as explaining, require_room as require_room
from .timing import seconds as seconds

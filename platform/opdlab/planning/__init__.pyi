from .cards import Card as Card, card_of as card_of, known_card as known_card
from .footprint import (
    Held as Held,
    activations as activations,
    attended as attended,
    cached as cached,
    kept_for_backward as kept_for_backward,
    sizes as sizes,
)
from .passes import scoring as scoring
from .phases import PHASES as PHASES, memory as memory
from .plan import (
    Asked as Asked,
    memory_of_runs as memory_of_runs,
    show as show,
    show_on as show_on,
)
from .room import explaining as explaining, require_room as require_room
from .scored_rows import ScoredRows as ScoredRows
from .served_teacher import behind_servers as behind_servers
from .timing import seconds as seconds

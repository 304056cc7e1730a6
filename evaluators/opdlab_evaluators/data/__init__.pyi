from . import known as known
from .answer_sheets import Sheet as Sheet, pass_at_every_k as pass_at_every_k, sheets as sheets
from .first_use import (
    Seen as Seen,
    compare_or_remember as compare_or_remember,
    remembered as remembered,
    today as today,
)
from .needed import count_needed as count_needed, factor as factor, smallest as smallest
from .source import FOLDER_VARIABLE as FOLDER_VARIABLE, Rows as Rows, Source as Source, read as read
from .wordings import ask as ask

from . import known as known
from .first_use import (
    Seen as Seen,
    compare_or_remember as compare_or_remember,
    remembered as remembered,
    today as today,
)
from .source import FOLDER_VARIABLE as FOLDER_VARIABLE, Rows as Rows, Source as Source, read as read
from .wordings import ask as ask

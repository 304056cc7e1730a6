from . import oracle as oracle
from .oracle import Finding as Finding, Setting as Setting, examine as examine
from .oracle_controls import CONTROLS as CONTROLS

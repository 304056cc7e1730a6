from .interrupt import (
    Stopped as Stopped,
    StopRequest as StopRequest,
    check_stop as check_stop,
    die_with as die_with,
    dies_with_parent as dies_with_parent,
)
from .quiet import quieten as quieten
from .result import Result as Result
from .tables_as_text import WIDTH as WIDTH, as_latex as as_latex, as_markdown as as_markdown
from .terminal import (
    ALARM as ALARM,
    BOLD as BOLD,
    DIM as DIM,
    END as END,
    GREEN as GREEN,
    RED as RED,
    YELLOW as YELLOW,
    SymbolConsole as SymbolConsole,
    WatchedProgress as WatchedProgress,
    console as console,
    duration as duration,
    gib as gib,
    linked as linked,
    progress_bar as progress_bar,
    shown as shown,
)

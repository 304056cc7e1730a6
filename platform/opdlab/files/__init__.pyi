from . import metrics_file as metrics_file, shipped as shipped
from .claim import (
    LOCK as LOCK,
    OWNER as OWNER,
    TRIAL as TRIAL,
    claimed as claimed,
    held_here as held_here,
    holder as holder,
    unfinished as unfinished,
)
from .live import LIVE as LIVE, read_live as read_live, tell_live as tell_live
from .machine_names import hold_name as hold_name
from .marked import (
    FIGURES as FIGURES,
    GENERATOR as GENERATOR,
    dated as dated,
    require_own_figures as require_own_figures,
    require_own_page as require_own_page,
    write_beside as write_beside,
    write_page as write_page,
)
from .metrics_file import (
    METRICS as METRICS,
    PARTS as PARTS,
    begin_metrics as begin_metrics,
    end_line as end_line,
    forget_metrics as forget_metrics,
    is_bin as is_bin,
    read_metrics as read_metrics,
    replace_metrics as replace_metrics,
)
from .natural_order import natural as natural
from .shipped import find as find
from .templates import begin_experiment as begin_experiment, begin_plugin as begin_plugin
from .whole_files import (
    built as built,
    damaged as damaged,
    is_partial as is_partial,
    is_there as is_there,
    read_file as read_file,
    read_json as read_json,
    read_record as read_record,
    sha256_of as sha256_of,
    whole_file as whole_file,
    whole_folder as whole_folder,
    write_whole as write_whole,
)

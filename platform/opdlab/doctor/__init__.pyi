from .checks import examine as examine
from .data_check import check as check
from .objective import report as report

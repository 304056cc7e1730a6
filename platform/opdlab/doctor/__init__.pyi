from .checks import examine as examine
from .data_check import check as check
from .judge_check import check_judge as check_judge
from .objective import report as report

from .answer_sheets import Sheet as Sheet, pass_at_every_k as pass_at_every_k, sheets as sheets
from .intervals import (
    combine as combine,
    constant as constant,
    difference_interval as difference_interval,
    mean_interval as mean_interval,
    seed_interval as seed_interval,
)
from .metrics import MajAtK as MajAtK, MeanAtK as MeanAtK, PassAtK as PassAtK
from .needed import count_needed as count_needed, smallest as smallest
from .ranking import Standing as Standing, rank as rank
from .resampling import (
    holm as holm,
    shares as shares,
    sign_flip_p as sign_flip_p,
    together as together,
)
from .scores import granularity_ok as granularity_ok, joint_protocol as joint_protocol
from .seeds import t_test as t_test

from .reckoning import ScorePlan as ScorePlan, plan as plan
from .request import Asked as Asked, asked_of as asked_of
from .run import Stored as Stored, score as score

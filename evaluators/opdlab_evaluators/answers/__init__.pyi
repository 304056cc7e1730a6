from .cells import MISSING as MISSING, written as written
from .equality import Outcome as Outcome, rules as rules
from .extraction import after_thinking as after_thinking
from .golds import tidy_gold as tidy_gold
from .grading import grade_answers as grade_answers
from .mathematics import ComparedAsMathematics as ComparedAsMathematics
from .pool import shared_pool as shared_pool

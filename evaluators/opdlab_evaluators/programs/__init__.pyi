from . import rules as rules
from .asserted import bare as bare
from .briefs import brief as brief
from .extraction import (
    after_future_imports as after_future_imports,
    bound as bound,
    classes as classes,
    defines as defines,
    definitions as definitions,
    function_body as function_body,
    last_block as last_block,
    last_two_fences as last_two_fences,
)
from .failing_tests import read_tests as read_tests
from .graded import grade_programs as grade_programs
from .judging import (
    Answered as Answered,
    Assertions as Assertions,
    Worker as Worker,
    answer_call as answer_call,
    answer_stdin as answer_stdin,
    judge as judge,
)
from .names import mentioned as mentioned
from .pool import ProgramPool as ProgramPool, shared_pool as shared_pool
from .private_tests import Case as Case, cases as cases
from .running import RunsPrograms as RunsPrograms, answer_named as answer_named

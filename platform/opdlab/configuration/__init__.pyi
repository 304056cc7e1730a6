from . import (
    documents as documents,
    loader as loader,
)
from .config import (
    DatasetPrompts as DatasetPrompts,
    Evaluation as Evaluation,
    Experiment as Experiment,
    HackingWatch as HackingWatch,
    Mask as Mask,
    Model as Model,
    ProblemPrompts as ProblemPrompts,
    Training as Training,
    Variant as Variant,
)
from .documents import (
    Key as Key,
)
from .explain import (
    close as close,
)
from .loader import (
    json_schema as json_schema,
    load as load,
    load_pretraining as load_pretraining,
    run_names as run_names,
)
from .pretrain_config import (
    Pretraining as Pretraining,
)
from .section import (
    Section as Section,
)
from .several_seeds import (
    Repeat as Repeat,
    repeats as repeats,
)

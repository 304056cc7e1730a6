from . import documents as documents, explain as explain, loader as loader
from .absent import moving as moving
from .adapter_settings import Lora as Lora
from .config import (
    Experiment as Experiment,
    Variant as Variant,
    require_fitting as require_fitting,
)
from .documents import Key as Key
from .evaluation_settings import Evaluation as Evaluation
from .explain import close as close
from .loader import (
    json_schema as json_schema,
    load as load,
    load_pretraining as load_pretraining,
    run_names as run_names,
)
from .model_settings import (
    Model as Model,
    Student as Student,
    Taught as Taught,
    Teacher as Teacher,
)
from .pretrain_config import Pretraining as Pretraining
from .prompt_settings import (
    DatasetPrompts as DatasetPrompts,
    DataSource as DataSource,
    ProblemPrompts as ProblemPrompts,
    ScoredPrompts as ScoredPrompts,
)
from .run_faults import WHOLE as WHOLE
from .section import RoomSection as RoomSection, Section as Section, replaced as replaced
from .several_seeds import Repeat as Repeat, repeats as repeats
from .source import Source as Source, set_values as set_values
from .stored_scores import asks_at_ends as asks_at_ends, stored as stored
from .training_settings import (
    HackingWatch as HackingWatch,
    Mask as Mask,
    Training as Training,
)

from .dataset import DatasetSource as DatasetSource
from .drawn import Loss as Loss, open_dataset as open_dataset, open_prompts as open_prompts
from .encoding import (
    OWN_SYSTEM as OWN_SYSTEM,
    as_tokens as as_tokens,
    continued as continued,
    encode as encode,
    messages_of as messages_of,
    plain_text as plain_text,
    rendered as rendered,
    require_wording as require_wording,
)
from .listed import ListedPrompts as ListedPrompts, Text as Text
from .overlap import Overlap as Overlap, Shared as Shared
from .preparing import (
    Fault as Fault,
    Prepared as Prepared,
    prepared as prepared,
    prepared_by as prepared_by,
)
from .rows import Asked as Asked, Reader as Reader
from .scored import ScoredSource as ScoredSource
from .shown import (
    overlap_of as overlap_of,
    remarks as remarks,
    show_prompts as show_prompts,
)
from .source import PromptSource as PromptSource
from .unknown_text import LOOKED_AT as LOOKED_AT, Unknown as Unknown, unknown as unknown

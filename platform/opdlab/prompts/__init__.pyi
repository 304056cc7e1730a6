from .drawn import (
    LOOKED_AT as LOOKED_AT,
    DatasetSource as DatasetSource,
    PromptSource as PromptSource,
    Unknown as Unknown,
    encode as encode,
    open_prompts as open_prompts,
    rendered as rendered,
    unknown as unknown,
)

from .client import (
    Access as Access,
    Client as Client,
    check_access as check_access,
    unreadable as unreadable,
)
from .dialect import (
    TOKEN_SERVERS as TOKEN_SERVERS,
    Draw as Draw,
    Identity as Identity,
    Reply as Reply,
    completion_body as completion_body,
    identify as identify,
    prompt_text as prompt_text,
    read_reply as read_reply,
)
from .engine import ROUNDS as ROUNDS, OpenAIEngine as OpenAIEngine, same_way as same_way

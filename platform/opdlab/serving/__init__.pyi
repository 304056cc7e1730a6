from .access import Access as Access, check_access as check_access, unreadable as unreadable
from .client import Client as Client, ReplyError as ReplyError
from .dialect import Draw as Draw, prompt_text as prompt_text, require_plain as require_plain
from .engine import (
    ROUNDS as ROUNDS,
    OpenAIEngine as OpenAIEngine,
    in_rounds as in_rounds,
    same_way as same_way,
)
from .identify import KNOWN as KNOWN, TOKEN_SERVERS as TOKEN_SERVERS, Identity as Identity
from .received import RECEIVED as RECEIVED, UNPROVEN as UNPROVEN, Received as Received
from .remote_teacher import RemoteTeacher as RemoteTeacher
from .replies import Reply as Reply
from .served_offers import SERVED_OFFERS as SERVED_OFFERS, SERVICE_OFFERS as SERVICE_OFFERS
from .served_teacher import ServedTeacher as ServedTeacher
from .session import Ask as Ask, Session as Session
from .wire import (
    MEDIA as MEDIA,
    SOFTWARE as SOFTWARE,
    Limits as Limits,
    Request as Request,
    answer_body as answer_body,
    pack as pack,
    read_request as read_request,
    unpack as unpack,
)

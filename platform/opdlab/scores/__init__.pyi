from .head import (
    Head as Head,
    head_bytes as head_bytes,
    head_tensors as head_tensors,
    save_teacher as save_teacher,
)
from .kinds import Candidates as Candidates, Kind as Kind, too_many as too_many
from .manifest import (
    TEACHER as TEACHER,
    Manifest as Manifest,
    has_store as has_store,
    read_manifest as read_manifest,
)
from .packing import (
    asked_for as asked_for,
    columns_of as columns_of,
    likeliest as likeliest,
    packed as packed,
)
from .reader import Scores as Scores, StoredAnswer as StoredAnswer
from .shards import Answer as Answer, bytes_of as bytes_of, key_of as key_of
from .stored_teacher import StoredTeacher as StoredTeacher
from .told import Told as Told
from .whole import require_teacher as require_teacher
from .writer import Note as Note, Writer as Writer, begin as begin

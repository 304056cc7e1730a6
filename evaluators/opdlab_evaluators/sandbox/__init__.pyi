from .command import SandboxMissingError as SandboxMissingError
from .inside import frames as frames, plain as plain
from .inside.clock import Clock as Clock, stop as stop
from .process import (
    Ended as Ended,
    Job as Job,
    Limits as Limits,
    Sandbox as Sandbox,
    SandboxDiedError as SandboxDiedError,
)

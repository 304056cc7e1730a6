"""A program that scores answers in shards of three and is killed between the second and its note.

python killed_scoring.py MODELS OUT
"""

import os
import signal
import sys
from pathlib import Path

import stores

from opdlab.offline import request
from opdlab.scores import writer

write_whole = writer.write_whole


def dying(path: Path, content: str) -> None:
    """Die in place of writing the second note."""
    if path.name == "00001.json":
        os.kill(os.getpid(), signal.SIGKILL)
    write_whole(path, content)


request.MOST_ROWS, writer.write_whole = 3, dying
stores.made(Path(sys.argv[1]), "drawn:3", sys.argv[2])

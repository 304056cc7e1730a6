"""One process that decides equalities, a line of JSON at a time; its parent kills it when it takes long.

python -m opdlab_evaluators.answers.worker MEMORY_BYTES
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from dataclasses import asdict

PR_SET_PDEATHSIG = 1


def main(memory: int) -> None:
    """Answer `[gold, answer]` lines with outcomes until the input ends."""
    # A worker lost in a computation would otherwise outlive a parent that was killed.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The libraries print; only outcomes may reach the parent.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    import math_verify  # noqa: F401  imported before the clock of the first answer starts

    from opdlab_evaluators.answers.equality import Outcome, decide

    def first(outcome: Outcome) -> None:
        print(json.dumps({"first": asdict(outcome)}), file=out)

    print("ready", file=out)
    for line in sys.stdin:
        gold, answer = json.loads(line)
        try:
            found = asdict(decide(gold, answer, first))
        except (MemoryError, RecursionError) as error:
            found = {"exhausted": type(error).__name__}
        except Exception as error:  # noqa: BLE001
            # Whatever the libraries raise over what a model wrote is told, and the worker lives on.
            found = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(found), file=out)


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""Whether the engine behind an open port lives: vLLM's front end may outlast its engine for minutes."""

from __future__ import annotations

import math
import threading
from time import monotonic
from typing import final

from opdlab.errors import AwayError, ServerError
from opdlab.serving.transport import Answered, Refused, Transport

ASKED_AFTER_S = 3.0
"""Silence after which a server is asked, and then again as often."""
DEAD_S = 6.0
"""An engine that is said to be dead for so long is; one that starts again has closed its port by then."""
TIMEOUT_S = 5.0


@final
class Pulse:
    """Asks `/health` while no answer comes.

    A server that is slow, or says nothing of its health, is never called dead: only vLLM's status 503 means
    that its engine has ended (others say so while they load a model).

    Attributes:
        tells: whether the server is one whose status 503 says that.
        silent_s: a server that answers nothing for so long, not even this, counts as away.
        last_words: what it said last in place of an answer.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.tells = False
        self.silent_s = math.inf
        self.last_words = ""
        self._asking = threading.Lock()
        self._asked = 0.0
        self._dead: float | None = None
        self._silent: float | None = None

    def hear(self, refused: Refused) -> None:
        """Take note of a failure; after one of the server's own it is asked for its health.

        Raises:
            AwayError: its engine is dead.
        """
        if refused.status >= 500:
            self.last_words = str(refused)
            self.require(ASKED_AFTER_S)

    def said(self, refused: Refused) -> str:
        """What the server said last, where it is gone now."""
        known = self.last_words and str(refused) != self.last_words
        return f"; its last words: {self.last_words.rstrip('.')}" if known else ""

    def require(self, quiet_s: float) -> None:
        """Raise if the engine is dead.

        Args:
            quiet_s: seconds without an answer; after a few of them the server is asked, beside the caller.

        Raises:
            AwayError: with its last words; or it is silent.
        """
        if quiet_s < ASKED_AFTER_S:
            self._silent = None  # somebody had an answer
            return
        if not self.tells and self.silent_s == math.inf:
            return
        if self._silent is not None and monotonic() - self._silent >= self.silent_s:
            raise AwayError(
                f"{self.transport.access.root}: it answers neither requests nor /health for more than "
                f"{self.silent_s:.0f} s"
            )
        if self.tells and self._dead is not None and monotonic() - self._dead >= DEAD_S:
            words = f"; its last words: {self.last_words.rstrip('.')}" if self.last_words else ""
            raise AwayError(
                f"{self.transport.access.root}: its engine is dead, says /health (status 503){words}. Look "
                "at the server's log and start it again; answers so far are kept; run the same "
                "command again to continue"
            )
        if monotonic() - self._asked >= ASKED_AFTER_S and self._asking.acquire(blocking=False):
            self._asked = monotonic()
            threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self) -> None:
        dead = silent = None
        try:
            url = self.transport.access.beside_api("/health")
            self.transport.once("GET", url, None, TIMEOUT_S)
        except Refused as refused:
            # One that does not answer in time is busy, or away: that is waited for.
            if refused.status == 503:
                dead = self._dead or monotonic()
            elif not refused.status:
                silent = self._silent or self._asked
        except (Answered, ServerError):
            pass
        finally:
            self._dead, self._silent = dead, silent
            self._asking.release()

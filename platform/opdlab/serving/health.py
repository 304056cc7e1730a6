"""Whether the engine behind an open port lives: vLLM's front end may outlast its engine for minutes."""

from __future__ import annotations

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
        last_words: what it said last in place of an answer.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.tells = False
        self.last_words = ""
        self._asking = threading.Lock()
        self._asked = 0.0
        self._dead: float | None = None

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
            AwayError: with its last words.
        """
        if not self.tells or quiet_s < ASKED_AFTER_S:
            return
        if self._dead is not None and monotonic() - self._dead >= DEAD_S:
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
        try:
            url = self.transport.access.beside_api("/health")
            self.transport.once("GET", url, None, TIMEOUT_S)
            self._dead = None
        except Refused as refused:
            # One that does not answer in time is busy, or away: that is waited for.
            if refused.status == 503:
                self._dead = self._dead or monotonic()
            else:
                self._dead = None
        except (Answered, ServerError):
            self._dead = None
        finally:
            self._asking.release()

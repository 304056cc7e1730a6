"""A server that misbehaves, one mode at a time: what servers, proxies and networks were seen to do.

It answers as `token_server.TokenServer` does, with a real model, but for what its mode changes: `REPLIES`
are answers that cannot be used, each with the words that refuse it; other modes are attributes.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from token_server import EOS, Handler, TokenServer
from typing_extensions import override

Choice, Usage = dict[str, Any], dict[str, Any]


@dataclass(frozen=True)
class Mode:
    """A way to answer wrongly.

    Attributes:
        words: of the refusal.
        change: made to the choice and the usage of an answer, in place.
        text_only: whether it is of servers that return no token ids.
        log_probs: whether it is of log-probabilities, which an evaluation does not ask for.
    """

    words: str
    change: Callable[[Choice, Usage], object]
    text_only: bool = False
    log_probs: bool = False


def _as_text(choice: Choice, usage: Usage, **changes: Any) -> None:
    del choice["token_ids"]
    choice.update({key: value for key, value in changes.items() if key == "text"})
    usage.update({key: value for key, value in changes.items() if key != "text"})


def _cut(choice: Choice, usage: Usage) -> None:
    choice.update(token_ids=[5, 6, 7], finish_reason="length")


def _long(choice: Choice, usage: Usage) -> None:
    choice.update(token_ids=[5] * 40, finish_reason="length")


def _said(token_ids: Any) -> Callable[[Choice, Usage], object]:
    return lambda choice, usage: choice.update(token_ids=token_ids, finish_reason="stop")


def _log_prob(value: Any) -> Callable[[Choice, Usage], object]:
    def change(choice: Choice, usage: Usage) -> None:
        choice["logprobs"]["token_logprobs"][-1] = value

    return change


def _other_prompt(last: Any) -> Callable[[Choice, Usage], object]:
    return lambda choice, usage: choice["prompt_token_ids"].__setitem__(-1, last)


REPLIES = {
    "cut by a limit of the server's own": Mode("ended by its length after 3 of 8 tokens", _cut),
    "more tokens than asked": Mode("40 tokens where 8 were asked for", _long),
    "EOS in the middle": Mode("continued after the EOS 2", _said([5, EOS, 6, EOS])),
    "another end": Mode("ended by token 6, which is no EOS", _said([5, 6])),
    "id beyond the vocabulary": Mode("token 999, beyond the 42", _said([999, EOS])),
    "negative id": Mode("token -1, which is not a token's number", _said([-1, EOS])),
    "ids as words": Mode("token '5', which is not a token's number", _said(["5", "2"])),
    "no tokens": Mode("has no tokens", _said([])),
    "two answers": Mode("gave 2 answers where one", lambda choice, _: choice.update(twice=True)),
    "filtered": Mode(
        "ended by 'content_filter'", lambda choice, _: choice.update(finish_reason="content_filter")
    ),
    "no reason": Mode("ended by None", lambda choice, _: choice.update(finish_reason=None)),
    "another prompt": Mode(r"as other tokens \(at \d+ 7, not", _other_prompt(7)),
    "a prompt of lists": Mode(r"as other tokens \(at \d+ \[7\], not", _other_prompt([7])),
    "no text": Mode("no text", lambda c, u: _as_text(c, u, text=None), text_only=True),
    "no count": Mode(
        "how many tokens it answered",
        lambda c, u: _as_text(c, u, completion_tokens=None),
        text_only=True,
    ),
    "a count that is none": Mode(
        "how many tokens it answered",
        lambda c, u: _as_text(c, u, completion_tokens="8"),
        text_only=True,
    ),
    "NaN": Mode("a log-probability of nan", _log_prob(float("nan")), log_probs=True),
    "above one": Mode("a log-probability of 0.5", _log_prob(0.5), log_probs=True),
    "beyond any float": Mode("a log-probability of -1000", _log_prob(-(10**400)), log_probs=True),
    "minus infinity": Mode("a log-probability of -inf", _log_prob(float("-inf")), log_probs=True),
}


class MisbehavingServer(TokenServer):
    """The server; its attributes may be changed while it runs.

    Attributes:
        alter: changes a completion's choice and usage; returns whether it did.
        alter_scores: the same of an answer to a teacher's question.
        statuses: by path, statuses that are answered first, one a request.
        refuses_for_ever: completion requests that are answered with status `refusal`.
        redirect: status and beginning of the address of another place, for all completions.
        cuts: so many completions end in the middle, without a length.
        hangs: whether completions are answered when `released` is set.
        hangs_at: a path that is answered then.
        says: what is answered at a path in place of the right thing.
        says_bytes: the same, as bytes of the type `media`.
        echoes: whether completions are answered by the headers of the request.
        healthy: whether `/health` says that the engine lives.
        key: without which nobody is let in.
        gone: paths that are not there.
        own: sampling settings of its own, in place of those of a request.
    """

    def __init__(self, folder: Path | str, kind: str = "vllm") -> None:
        super().__init__(folder, kind)
        self.alter: Callable[[dict[str, Any], Choice, Usage], bool] = lambda *_: False
        self.alter_scores: Callable[[dict[str, Any], Choice, Usage], object] = lambda *_: False
        self.statuses: dict[str, list[int]] = {}
        self.refuses_for_ever: Callable[[dict[str, Any]], bool] = lambda body: False
        self.refusal = 400
        self.redirect: tuple[int, str] | None = None
        self.cuts = 0
        self.hangs, self.released = False, threading.Event()
        self.hangs_at = ""
        self.says: dict[str, Any] = {}
        self.says_bytes: dict[str, bytes] = {}
        self.media = "application/json"
        self.echoes = False
        self.healthy = True
        self.key = ""
        self.gone: tuple[str, ...] = ()
        self.own: dict[str, Any] = {}
        self.handler = _Misbehaving

    def complete(self, body: dict[str, Any]) -> Any:
        answer = super().complete(body | self.own)
        choice = answer["choices"][0]
        scored = "prompt_logprobs" in body or body.get("return_tokens_as_token_ids")
        change = self.alter_scores if scored else self.alter
        change(body, choice, answer["usage"])
        answer["choices"] *= 1 + choice.pop("twice", False)
        return answer


class _Misbehaving(Handler):
    server_state: MisbehavingServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def _strange(self, path: str) -> bool:
        """Answer in the way of the mode; False where it has none for this."""
        state = self.server_state
        first = state.statuses.get(path)
        if state.key and self.headers.get("Authorization") != f"Bearer {state.key}":
            self._send({"error": {"message": "who are you"}}, 401)
        elif path in state.gone:
            self._send(None)
        elif first:
            self._send({"error": {"message": "not well"}}, first.pop(0))
        elif path == "/health" and not state.healthy:
            self._send({}, 503)
        elif path in state.says_bytes:
            self.send_response(200)
            self.send_header("Content-Type", state.media)
            self.send_header("Content-Length", str(len(state.says_bytes[path])))
            self.end_headers()
            self.wfile.write(state.says_bytes[path])
        elif path in state.says:
            self._send(state.says[path])
        else:
            return False
        return True

    @override
    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.server_state.headers_seen.append(dict(self.headers))
        self._hang(path)
        if not self._strange(path):
            super().do_GET()

    @override
    def do_POST(self) -> None:
        path, state = self.path.split("?")[0], self.server_state
        state.headers_seen.append(dict(self.headers))
        self.raw = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(self.raw)
        completion = path.endswith("/completions")
        self._hang(path)
        if completion and state.hangs:
            state.seen[path] += 1
            state.released.wait()
        if completion and state.redirect and not path.startswith("/there"):
            status, base = state.redirect
            self._send({}, status, {"Location": f"{base}/there{path}"})
        elif completion and state.refuses_for_ever(body):
            state.seen[path] += 1
            said = {"error": {"message": "maximum context length is 8 tokens"}}
            self._send(said, state.refusal)
        elif completion and state.cuts > 0:
            state.cuts -= 1
            self.wfile.write(b'HTTP/1.0 200 OK\r\n\r\n{"choices": [{"te')
            self.close_connection = True
        elif completion and state.echoes:
            self._send({"headers": dict(self.headers)})
        elif not self._strange(path):
            self.path = path.removeprefix("/there")
            super().do_POST()

    def _hang(self, path: str) -> None:
        if path == self.server_state.hangs_at:
            self.server_state.released.wait()

    def _read(self) -> bytes:
        return self.raw

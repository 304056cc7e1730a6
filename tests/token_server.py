"""A stand-in for vLLM or SGLang, neither of which runs here: their documented interface, a real model.

It samples with this package's own engine, so that the same seed gives the same tokens as in the process.
What it shows is that the client speaks the documented interface, not that those servers keep to it.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from transformers import PreTrainedModel

from opdlab.modelling.models import load_model
from opdlab.sampling.rollout import CachedEngine

EOS = 2


class TokenServer:
    """The server, in a thread; its attributes may be changed while it runs.

    Attributes:
        kind: `vllm` or `sglang`.
        seen: requests by path.
        bodies: completion requests as they came.
        headers_seen: of all requests.
        failures: so many completion requests are answered with `status` first.
        refuses: completion requests that are answered with `status`.
        tag: of the weights; None for a server that has no tags.
        card: what the list of models says in addition.
        stumbles: so many questions after a path are answered with status 500 first.
        context: tokens that it tells it reads at most; None for a server that does not tell.
        hides: keys left out of answers.
        busiest: completion requests under way at once, at most.
        port: chosen at the first start, and the same at the next.
    """

    def __init__(self, folder: Path | str, kind: str = "vllm") -> None:
        self.folder, self.kind = Path(folder), kind
        self.handler: type[Handler] = Handler
        self.model: PreTrainedModel = load_model(str(folder))
        self.seen: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers_seen: list[dict[str, str]] = []
        self.failures, self.status, self.headers = 0, 503, {}
        self.refuses: Callable[[dict[str, Any]], bool] = lambda body: False
        self.stumbles: Counter[str] = Counter()
        self.hides: tuple[str, ...] = ()
        self.extra_prompt: list[int] = []
        self.deaf = False
        self.card: dict[str, Any] = {}
        self.tag: str | None = "default"
        self.lock, self.under_way, self.busiest = threading.Lock(), 0, 0
        self.pause = threading.Event()
        self.port = 0

    def forget(self) -> None:
        """As if it had been started again: the weights are those of its folder."""
        self.model, self.tag = load_model(str(self.folder)), self.tag and "default"

    def __enter__(self) -> Self:
        handler = type("Handler", (self.handler,), {"server_state": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self.port = self.http.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def get(self, path: str) -> Any:
        if path == "/v1/models":
            card = {"id": "the-model", "owned_by": self.kind, "root": str(self.folder)}
            return {"object": "list", "data": [card | self.card]}
        if path == "/version" and self.kind == "vllm":
            return {"version": "0.33.0"}
        if path == "/server_info" and self.kind == "sglang":
            return {"version": "0.5.9"}
        if path == {"vllm": "/weight_info", "sglang": "/model_info"}.get(self.kind) and self.tag:
            return {"weight_version": self.tag}
        if path == "/health":
            return {}
        return None

    def post(self, path: str, body: dict[str, Any]) -> Any:
        if path == "/v1/completions":
            return self.complete(body)
        if path == "/collective_rpc" and self.kind == "vllm":
            assert body["method"] == "reload_weights"
            self._take(body["kwargs"]["weights_path"])
            return {"results": [None]}
        if path == "/reset_prefix_cache" and self.kind == "vllm":
            return {}
        if path == "/update_weight_version" and self.kind == "vllm" and self.tag:
            self.tag = body["new_version"]
            return {"success": True, "new_version": self.tag}
        if path == "/update_weights_from_disk" and self.kind == "sglang":
            self._take(body["model_path"])
            self.tag = self.tag and body["weight_version"]
            return {"success": True, "message": "Succeeded to update model weights."}
        return None

    def _take(self, folder: str) -> None:
        assert Path(folder).is_absolute(), "a server has a working directory of its own"
        if not self.deaf:
            self.model = load_model(folder)

    def complete(self, body: dict[str, Any]) -> Any:
        with self.lock:
            self.bodies.append(body)
            prompt = [*self.extra_prompt, *body["prompt"]]
            if "prompt_logprobs" in body or body.get("return_tokens_as_token_ids"):
                return self._scored(prompt, body)
            rollout = CachedEngine(
                max_new_tokens=body["max_tokens"],
                temperature=body["temperature"],
                top_p=body["top_p"],
            ).sample(
                self.model,
                [prompt],
                [body["seed"]],
                eos_ids=tuple(body["stop_token_ids"]),
                pad_id=0,
            )
        tokens = rollout.token.tolist()
        values = rollout.log_prob.tolist()
        choice = {
            "index": 0,
            "text": " ".join(map(str, tokens)),
            "finish_reason": "stop" if rollout.ended[0] else "length",
            "token_ids": tokens,
            "prompt_token_ids": prompt,
            "logprobs": {"token_logprobs": values, "tokens": [str(t) for t in tokens]},
        }
        if self.kind == "sglang" and not body.get("no_stop_trim") and rollout.ended[0]:
            choice["token_ids"] = tokens[:-1]
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(tokens)}
        return self._answer(choice, usage)

    def _answer(self, choice: dict[str, Any], usage: dict[str, Any]) -> Any:
        shown = {key: value for key, value in choice.items() if key not in self.hides}
        return {"choices": [shown], "usage": {} if "usage" in self.hides else usage}

    @torch.no_grad()
    def _scored(self, prompt: list[int], body: dict[str, Any]) -> Any:
        """The log-probabilities of a prompt's tokens, with the likeliest at each place, and those after."""
        said = self.model(input_ids=torch.tensor([prompt])).logits[0].log_softmax(-1)
        choice: dict[str, Any] = {"text": "", "finish_reason": "length"}
        choice["prompt_token_ids"] = prompt
        if (top := body.get("prompt_logprobs")) is not None:
            rows = [_told(said[place], top, token) for place, token in enumerate(prompt[1:])]
            choice["prompt_logprobs"] = [None, *rows]
        if (top := body.get("logprobs")) is not None:
            next_token = int(said[-1].argmax())
            row = _told(said[-1], top, next_token)
            named = {f"token_id:{token}": cell["logprob"] for token, cell in row.items()}
            choice["logprobs"] = {"top_logprobs": [named], "tokens": [f"token_id:{next_token}"]}
        return self._answer(choice, {"prompt_tokens": len(prompt), "completion_tokens": 1})


def _told(said: torch.Tensor, top: int, token: int) -> dict[str, dict[str, Any]]:
    """What vLLM tells of one place: the likeliest tokens by rank, and the one that stands there."""
    order = said.argsort(descending=True)
    ranks = {int(one): rank + 1 for rank, one in enumerate(order)}
    wanted = dict.fromkeys([*order[:top].tolist(), token])
    return {
        str(one): {
            "logprob": max(float(said[one]), -9999.0),
            "rank": ranks[one],
            "decoded_token": "same",
        }
        for one in wanted
    }


class Handler(BaseHTTPRequestHandler):
    server_state: ClassVar[TokenServer]

    def do_GET(self) -> None:
        path, state = self.path.split("?")[0], self.server_state
        state.headers_seen.append(dict(self.headers))
        if state.stumbles[path] > 0:
            state.stumbles[path] -= 1
            self._send({"error": {"message": "a fault"}}, 500)
        else:
            self._send(state.get(path))

    def do_POST(self) -> None:
        state = self.server_state
        body = json.loads(self._read())
        path = self.path.split("?")[0]
        state.seen[path] += 1
        with state.lock:
            asked = path == "/v1/completions"
            fails = asked and (state.failures > 0 or state.refuses(body))
            state.failures -= fails and state.failures > 0
            state.under_way += 1
            state.busiest = max(state.busiest, state.under_way)
        state.pause.wait(0.02)
        answer = {"error": {"message": "not now"}} if fails else state.post(path, body)
        with state.lock:
            state.under_way -= 1
        self._send(answer, *((state.status, state.headers) if fails else ()))

    def _read(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _send(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(status if content is not None else 404)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass

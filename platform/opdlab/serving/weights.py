"""Keeping the weights of a server those of the student: saved to a folder that both see, then read by it.

vLLM reads a checkpoint into the model it serves by the worker method `reload_weights` with `weights_path`,
which `/collective_rpc` calls in its development mode (`VLLM_SERVER_DEV_MODE=1`); SGLang by
`/update_weights_from_disk`. Weights carry a tag (vLLM's `/update_weight_version`, SGLang's
`weight_version`) that is asked before each use. `tests/served` does this with a real vLLM; SGLang could not
be run where this was written: its calls follow its documentation, and the tests speak to a stand-in that
obeys it.
"""

from __future__ import annotations

import logging
import secrets
from pathlib import Path
from time import perf_counter
from typing import Any, final
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from opdlab.errors import ServerError
from opdlab.serving.copies import written
from opdlab.serving.dialect import scoring_body
from opdlab.serving.fingerprint import fingerprint
from opdlab.serving.heard import Heard
from opdlab.serving.received import Received
from opdlab.serving.replies import read_scores
from opdlab.serving.sampler import Chance, Draws
from opdlab.serving.session import Session
from opdlab.serving.taken import take
from opdlab.shapes import Tensor

LOG = logging.getLogger("opdlab")
TAGGED = "opdlab-"
_OWN = f"{TAGGED}{secrets.token_hex(4)}-"
"""Beginning of the tags of what this process sends, of one student or several."""
SAME = 0.02
"""A server without tags says log-probabilities of one text twice alike but for less, in nats."""
_LINKS: WeakKeyDictionary[PreTrainedModel, dict[str, Link]] = WeakKeyDictionary()


@final
class Link:
    """What one server has of one model's weights.

    Attributes:
        sent: fingerprint of the weights that the server was given; None before.
        first: fingerprint of the weights at the first rollout, of a model whose weights are not sent.
        usual: how far the server's log-probabilities were from the model's at most, where they were right.
        exact: whether it was seen to compute in float32, so that it may differ by next to nothing.
        drawn: what was seen of the sampling since it last sufficed, and of which prompts and seeds, by
            temperature and top-p.
        proven: temperatures and top-p at which it was seen to draw as asked.
        heard: whether it takes the weights that it is sent.
        unproven: what was marked before enough was seen, by place, likewise.
        figures: of the last rollout, for the record.
    """

    def __init__(self) -> None:
        self.sent: str | None = None
        self.first: str | None = None
        self.usual: float | None = None
        self.exact = False
        self.drawn: dict[tuple[float, float], tuple[Draws, set[Chance]]] = {}
        self.heard = Heard()
        self.proven: set[tuple[float, float]] = set()
        self.unproven: dict[tuple[float, float], dict[Path, Received]] = {}
        self.figures: dict[str, float] = {}
        self.tag = ""
        self._tells = False
        """Whether the server shows the tag that it was given."""
        self._said: tuple[list[int], Tensor] | None = None
        """Of a server without tags: a text, and its log-probabilities after the weights were sent."""

    def outdated(self, session: Session, now: str) -> bool:
        """Whether the server lacks the weights: they changed, were never sent, or it has others now.

        Args:
            now: fingerprint of the model's weights.

        Raises:
            ServerError: another training has sent its own since.
        """
        if self.sent != now:
            return True
        tag = read_tag(session)
        others = tag is not None and tag.startswith(TAGGED) and not tag.startswith(_OWN)
        if others and tag != self.tag:
            raise ServerError(
                f"{session.client.access.root} has the weights of another training ({tag}), which were "
                "sent after this one's: a server serves one student. Stop the other training, or give it a "
                "server of its own"
            )
        lost = tag != self.tag if self._tells else self._says_otherwise(session)
        if lost:
            LOG.warning(
                "%s lost the weights it was sent; they are sent again", session.client.access.root
            )
        return lost

    def _says_otherwise(self, session: Session) -> bool:
        if self._said is None:
            return False
        ids, before = self._said
        now = torch.tensor(_scores(session, ids))
        return not bool(((now - before).abs() <= SAME).all())

    def send(
        self, session: Session, model: PreTrainedModel, folder: str, now: str, text: list[int]
    ) -> None:
        """Have the server take the model's weights; whether it answers with them, its answers show.

        Args:
            text: tokens by which a server without tags is known again.

        Raises:
            ServerError: the server cannot.
        """
        started = perf_counter()
        # The server has a working directory of its own.
        parent = Path(folder).expanduser().absolute()
        take(session, parent)
        place = written(model, parent, now)
        earlier = self.sent
        self.sent, self.tag = None, f"{_OWN}{now[:16]}"
        handed_over(session, place, self.tag)
        self._tells = read_tag(session) == self.tag
        self._said = None
        if not self._tells and session.server.software == "vllm" and len(text) > 1:
            self._said = text, torch.tensor(_scores(session, text))
        if earlier != now:
            self.heard.sent(model)
        self.sent = now
        self.figures["seconds/weights"] = perf_counter() - started


def link_to(model: PreTrainedModel, session: Session) -> Link:
    """What a server has of a model, as far as this process knows."""
    return _LINKS.setdefault(model, {}).setdefault(session.client.access.root, Link())


def figures_of(model: PreTrainedModel) -> dict[str, float]:
    """What a model's last rollout showed, once: of several servers the sum of seconds, else the worst."""
    found: dict[str, float] = {}
    for link in _LINKS.get(model, {}).values():
        for name, value in link.figures.items():
            before = found.get(name, 0.0)
            found[name] = (
                before + value if name.startswith("seconds/") else max(before, value, key=abs)
            )
        link.figures = {}
    return found


def handed_over(session: Session, place: str, tag: str) -> None:
    """Have the server read the weights in a folder, and tag them; raises ServerError."""
    client, root = session.client, session.client.access.root
    if session.server.software == "vllm":
        call = {"method": "reload_weights", "kwargs": {"weights_path": place}}
        try:
            done = client.post(client.access.beside_api("/collective_rpc"), call)
        except ServerError as error:
            raise ServerError(
                f"{error}. vLLM accepts weights only in its development mode: start it with "
                "VLLM_SERVER_DEV_MODE=1; and it must see the folder under the same name"
            ) from error
        if not isinstance(done, dict) or "results" not in done:
            said = client.hidden(str(done))[:300]
            raise ServerError(f"{root} did not take the weights in {place}: {said}")
        # What was cached was computed with the weights before.
        client.post(client.access.beside_api("/reset_prefix_cache"), {})
        try:
            client.post(client.access.beside_api("/update_weight_version"), {"new_version": tag})
        except ServerError as error:
            # Versions before 0.32 have no tags: what they say of a text stands for one.
            LOG.debug("no tag: %s", error)
        return
    url = client.access.beside_api("/update_weights_from_disk")
    done = client.post(url, {"model_path": place, "weight_version": tag})
    if not isinstance(done, dict) or not done.get("success"):
        said = client.hidden(str(done.get("message", done) if isinstance(done, dict) else done))
        raise ServerError(
            f"{root} did not take the weights in {place}: {said}. The folder must be visible to the server "
            "under the same name"
        )


def read_tag(session: Session) -> str | None:
    """The tag of a server's weights; None where it has none to tell."""
    path = "/weight_info" if session.server.software == "vllm" else "/model_info"
    told: Any = session.client.ask(path)
    found = told.get("weight_version") if isinstance(told, dict) else None
    return None if found is None else str(found)


def check(model: PreTrainedModel, session: Session) -> None:
    """Refuse weights that cannot be sent.

    Raises:
        ServerError: the server takes none, or the weights are sharded.
    """
    if not session.takes_tokens:
        raise ServerError(
            f"weights cannot be sent to a server of kind {session.server.software!r}; vLLM and SGLang take "
            "them"
        )
    if not all(type(weight.data) is torch.Tensor for weight in model.parameters()):
        raise ServerError(
            "weights are sent to a rollout server by a process that holds all of them, and these are "
            "sharded; use rollout type `cached`"
        )


def _scores(session: Session, ids: list[int]) -> list[float]:
    """What a vLLM server says of a text; SGLang has no `prompt_logprobs` behind OpenAI's interface."""
    url = session.client.access.api("/completions")
    answer = session.client.post(url, scoring_body(session.server, ids))
    try:
        return read_scores(answer, ids)
    except ServerError as error:
        raise ServerError(session.client.hidden(str(error))) from None


def changed(link: Link, model: PreTrainedModel) -> bool:
    """Whether the model's weights changed since the first rollout, of one that sends none."""
    now = fingerprint(model)
    link.first = link.first or now
    return link.first != now

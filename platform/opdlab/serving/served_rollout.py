"""Answers of a server that serves the student: weights sent, answers compared, rows recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from threading import Thread
from typing import TypeVar, final

import torch
from transformers import PreTrainedModel

from opdlab.errors import AwayError, OtherDrawsError, RefusedError, ServerError
from opdlab.peers import gathered
from opdlab.sampling import Recorded, refuse_non_finite, scored
from opdlab.scoring import within
from opdlab.serving import weights
from opdlab.serving.access import Access
from opdlab.serving.dialect import Draw
from opdlab.serving.fingerprint import fingerprint
from opdlab.serving.identify import TOKEN_SERVERS
from opdlab.serving.likeness import EXACT, Likeness, allowed, likeness, rounding
from opdlab.serving.received import Received
from opdlab.serving.replies import Reply
from opdlab.serving.sampler import REMEMBERED, Chance, Draws, chances, draws
from opdlab.serving.session import Ask, Session
from opdlab.shapes import Float, Int, Tensor
from opdlab.transfers import to_device

LOG = logging.getLogger("opdlab")
Replies = tuple[dict[int, Reply], dict[int, str]]
"""Completions by row, in the order in which they came, and why the other rows have none."""
Result = TypeVar("Result")
PROBED, PROBE_TOKENS = 8, 32
"""Prompts, and tokens of each answer, by which a server is looked at whose own are not at temperature 1."""
LOOKED_AT = 8
"""Tokens of the answer by which a server is only looked at."""
JUMP, JUMPS = 3e-4, 3.0
"""Nats, and times what was usual, by which a server that was sent the weights is off when it is sent them
again: of a server in float32 that is one step of training, which bfloat16 would hide."""
SEVERAL, SHOWN = 16, 10 * JUMP
"""Uncertain tokens, and nats that bfloat16 does to them, by which a server within `JUMP` computes in
float32."""


@final
@dataclass(frozen=True)
class Sampling:
    """How a server is asked: see `OpenAIEngine`, whose options these are."""

    access: Access
    served_model: str | None
    weights_folder: str | None
    largest_gap: float | None
    temperature: float
    top_p: float
    max_new_tokens: int

    @property
    def named(self) -> str:
        """The server, under any name of this machine, and what it is to draw by."""
        return f"{self.access.server} temperature {self.temperature:g} top-p {self.top_p:g}"


@final
@dataclass(frozen=True)
class Asked:
    """What is sampled from, and how its responses end and are recorded: see `RolloutEngine.sample`."""

    prompts: Sequence[Sequence[int]]
    seeds: Sequence[int]
    eos_ids: tuple[int, ...]
    pad_id: int
    top_k: int = 0
    vocabulary: int | None = None

    def only(self, rows: Sequence[int]) -> Asked:
        """Some of them."""
        prompts, seeds = ([all_[row] for row in rows] for all_ in (self.prompts, self.seeds))
        return replace(self, prompts=prompts, seeds=seeds)


@final
@dataclass(frozen=True)
class Drawn:
    """What a server answered, and what the student says of it.

    Attributes:
        rows: those that were answered; none only where other processes wait for this one.
        refused: why the others were not.
        recorded: None without rows.
        said: the server's log-probabilities, if those of temperature 1 with nothing cut off.
        limit: what the same weights may differ by.
    """

    rows: list[int]
    refused: dict[int, str]
    responses: list[Int[Tensor, "_"]]
    recorded: Recorded | None
    likeness: Likeness
    limit: float
    said: Float[Tensor, "T"] | None = None

    @property
    def fits(self) -> bool:
        """Whether the server may have the student's weights."""
        return self.likeness.within(self.limit)


@final
class ServedRollout:
    """A model that answers through a server which has its weights, or is refused."""

    def __init__(
        self, how: Sampling, model: PreTrainedModel, max_rows: int | None, alone: bool
    ) -> None:
        self.how, self.model, self.max_rows, self.alone = how, model, max_rows, alone
        self.session = Session.open(how.access, how.served_model)
        self.link = weights.link_to(model, self.session)
        self.begun: Future[Replies] | None = None
        """What the server answers to what `drawn` will ask first."""

    def begin(self, asked: Asked) -> None:
        """Send the weights and the requests of the next `drawn`, whose answers a thread waits for."""
        self.sync(asked)
        self.begun = beside(lambda: self.replies(asked, self.how))

    def drawn(self, asked: Asked, received: Received | None = None) -> Drawn:
        """Responses of the server, and what the model says of them.

        Args:
            received: keeps the completions until they are handed over, for `proved`; those handed over are
                marked until enough was seen of the server.

        Raises:
            RefusedError: none of the prompts was answered, and no other process waits for this one.
            ServerError: the server has other weights than the model.
        """
        if received is not None:
            self.mark(received)
        sends = self.how.weights_folder is not None
        if sends:
            self.sync(asked)
        elif weights.changed(self.link, self.model):
            raise ServerError(
                f"{self.how.access.url}: the student's weights have changed, and the server is sent none: "
                "set rollout.weights_folder, a folder that it sees under the same name"
            )
        found = self.once(asked, received)
        usual = self.link.usual
        jumped = self.jumped(found.likeness)
        # A server that was started again in between has the weights it began with: its tag says so, or its
        # answers do.
        if sends and self.sync(asked, any(gathered(jumped or not found.fits, self.alone))):
            if received is not None:
                received.forget(range(len(asked.prompts)))
            found = self.once(asked, received)
            if self.sync(asked):
                raise ServerError(
                    f"{self.how.access.root}: it lost the student's weights twice while it answered one "
                    "rollout; look at its log"
                )
        try:
            self.require(found)
            self.require_heard(asked.only(found.rows), found)
            self.require_drawn(asked.only(found.rows), found.responses)
        except ServerError:
            if received is not None:
                received.forget(range(len(asked.prompts)))
            raise
        if found.rows:
            self.link.usual = max(usual or 0.0, found.likeness.worst)
            self.link.figures |= found.likeness.figures()
        return found

    def too_long(self, prompts: Sequence[Sequence[int]]) -> dict[int, str]:
        """Why rows cannot be answered in full: the server's context, where it tells it."""
        context, most = self.session.client.context, self.how.max_new_tokens
        if context is None:
            return {}
        return {
            row: f"its prompt of {len(ids)} tokens and rollout.max_new_tokens ({most}) are more than the "
            f"server's context of {context} (vLLM: --max-model-len)"
            for row, ids in enumerate(prompts)
            if len(ids) + most > context
        }

    def jumped(self, like: Likeness) -> bool:
        """Whether the server is off by more than it was before."""
        usual = self.link.usual
        return usual is not None and not like.within(max(JUMP, JUMPS * usual))

    def proved(
        self, asked: Asked, came: Mapping[int, Reply], received: Received
    ) -> dict[int, Int[Tensor, "_"]]:
        """Responses of a rollout that was cut short, if they show by themselves whose they are.

        Servers whose log-probabilities are not those of temperature 1 show nothing.

        Args:
            received: as in `drawn`.

        Raises:
            OtherDrawsError: they were drawn otherwise than asked.
        """
        self.mark(received)
        rows = sorted(came)
        asked = asked.only(rows)
        responses, found = self.scored(asked, came)
        like, limit = self.compared(asked, came, responses, found)
        if not like.within(limit) or self.jumped(like):
            return {}
        try:
            self.require_drawn(asked, responses)
        except OtherDrawsError as error:
            received.forget(list(came))
            again = "if the server was put right since, run the same command again"
            said = f"{error}. An earlier process received these answers: {again}"
            raise OtherDrawsError(said, error.proven, error.how) from None
        return dict(zip(rows, responses, strict=True))

    def look(self, asked: Asked) -> tuple[bool, str]:
        """Whether it has the model's weights, and what it is: see `OpenAIEngine.look`."""
        if self.how.weights_folder is not None:
            weights.check(self.model, self.session)
        like, limit = self.probed(asked, LOOKED_AT)
        fits = like.within(limit)
        state = "has the student's weights" if fits else "has other weights now"
        said = self.session.server
        return fits, (
            f"{said.software} {said.version or '(version not told)'} serves {said.model} and {state} "
            f"({like.worst:.1e} nats off)"
        )

    def once(self, asked: Asked, received: Received | None = None) -> Drawn:
        """One round of answers, looked at."""
        begun, self.begun = self.begun, None
        try:
            replies, refused = begun.result() if begun else self.replies(asked, self.how, received)
        except RefusedError as error:
            if self.alone:
                raise
            replies, refused = dict[int, Reply](), error.of_all
        if not replies:
            return Drawn([], refused, [], None, Likeness(0.0, 0.0, 0.0, 0.0, 0), 0.0)
        rows = sorted(replies)
        asked = asked.only(rows)
        responses, found = self.scored(asked, replies)
        # Servers differ in whether theirs are those before temperature and top-p.
        if (self.how.temperature, self.how.top_p) == (1.0, 1.0):
            like, limit = self.compared(asked, replies, responses, found)
            said = torch.tensor([one for row in rows for one in replies[row].log_probs or ()])
        else:
            (like, limit), said = self.probed(asked), None
        return Drawn(rows, refused, responses, found, like, limit, said)

    def scored(
        self, asked: Asked, replies: Mapping[int, Reply]
    ) -> tuple[list[Int[Tensor, "_"]], Recorded]:
        """Responses on the model's device, and what the model says of them."""
        device = self.model.device
        responses = [to_device(torch.tensor(replies[row].ids), device) for row in sorted(replies)]
        found = scored(self.model, asked.prompts, responses, asked.vocabulary, asked.top_k)
        refuse_non_finite(
            found.log_prob, *within(torch.tensor([len(response) for response in responses]))
        )
        return responses, found

    def compared(
        self,
        asked: Asked,
        replies: Mapping[int, Reply],
        responses: Sequence[Int[Tensor, "_"]],
        found: Recorded,
    ) -> tuple[Likeness, float]:
        """How far the server is from the model, and how far it may be.

        Args:
            replies: by row, in the order in which they came.
        """
        rows = sorted(replies)
        place = {row: number for number, row in enumerate(rows)}
        said = [value for row in rows for value in replies[row].log_probs or ()]
        lengths = [len(response) for response in responses]
        came = [place[row] for row in replies]
        like = likeness(torch.tensor(said), found.log_prob, lengths, came)
        if self.how.largest_gap is not None:
            return like, self.how.largest_gap
        mine = self.model, asked.prompts, responses, asked.vocabulary, found.log_prob
        if like.within(JUMP):
            in_float32 = next(self.model.parameters()).dtype == torch.float32
            if not self.link.exact and in_float32 and like.tokens >= SEVERAL:
                self.link.exact = rounding(*mine).worst > SHOWN
            return like, JUMP
        return like, EXACT if self.link.exact else allowed(*mine)

    def probed(self, asked: Asked, tokens: int = PROBE_TOKENS) -> tuple[Likeness, float]:
        """The same by a few short answers of temperature 1."""
        prompts = list(dict.fromkeys(map(tuple, asked.prompts)))[:PROBED]
        few = replace(asked, prompts=prompts, seeds=list(asked.seeds[: len(prompts)]), top_k=0)
        length = min(self.how.max_new_tokens, tokens)
        plain = replace(self.how, temperature=1.0, top_p=1.0, max_new_tokens=length)
        replies, _ = self.replies(few, plain)
        few = few.only(sorted(replies))
        return self.compared(few, replies, *self.scored(few, replies))

    def require(self, found: Drawn) -> None:
        """Raises ServerError where the server has other weights than the model."""
        if not found.fits:
            remedy = (
                "It was sent the student's weights, and answers with others still: look at its log; of "
                "servers of fewer bits than bfloat16 rollout.largest_gap says how far they may be off"
                if self.how.weights_folder is not None
                else "Give it the student's weights (weights_folder), or serve the model that is trained; "
                "a wider number format lowers what rounding leaves"
            )
            raise ServerError(
                f"{self.how.access.url} does not serve the student: its log-probabilities of what it "
                f"sampled are {found.likeness.worst:.2g} nats off (root mean square over uncertain tokens; "
                f"the same weights would be {found.limit:.2g} off at most). {remedy}"
            )

    def require_heard(self, asked: Asked, found: Drawn) -> None:
        """Raises ServerError where the server answers with the weights that it was sent first."""
        heard = self.link.heard
        # What fewer bits than bfloat16 do is no rounding of another kind: it is the same for many texts.
        if not heard.due or found.said is None or self.how.largest_gap is not None:
            return
        theirs = (self.model, asked.prompts, found.responses, found.said, asked.vocabulary)
        if heard.look(*theirs):
            raise ServerError(
                f"{self.how.access.root} confirmed the student's new weights, and answers with the first: "
                f"its log-probabilities after {len(heard.seen)} prompts are {heard.share:.2f} of the way "
                "from the ones to the others. Look at its log, or use another version of the server"
            )

    def mark(self, received: Received) -> None:
        """Mark what is handed over until enough was seen of the server: it may have to be withdrawn."""
        listed = self.link.unproven.setdefault((self.how.temperature, self.how.top_p), {})
        if received.path not in listed:
            received.mark(self.how.named)
        listed[received.path] = received

    def require_drawn(self, asked: Asked, responses: Sequence[Int[Tensor, "_"]]) -> None:
        """Raises OtherDrawsError where the server samples otherwise than it was asked to."""
        how, settings = self.how, (self.how.temperature, self.how.top_p)
        before, known = self.link.drawn.pop(settings, (Draws(0, 0, 0, 0), set[Chance]()))
        new = {*chances(asked.prompts, asked.seeds)} - known
        drawn = self.model, asked.prompts, asked.seeds, responses, asked.vocabulary, *settings
        seen = draws(*drawn, known)
        # Asked again, of other weights or of a server that was started again, it is looked at by itself.
        again = draws(*drawn, new)
        whole = before + seen
        if fault := next(filter(None, gathered(whole.fault or again.fault, self.alone)), ""):
            # Whoever asks again, of a server that was put right, begins anew.
            said = (
                f"{how.access.url} does not sample at temperature {how.temperature:g} and top-p "
                f"{how.top_p:g}: {fault}. Look for settings of the server that override those of a request"
            )
            # First of all: whoever is killed from here on leaves word of it.
            for received in self.link.unproven.pop(settings, {}).values():
                received.mark(how.named, said)
            proven = settings in self.link.proven and not before.tokens
            raise OtherDrawsError(said, proven, how.named)
        if whole.suffices or again.suffices:
            self.link.proven.add(settings)
            for received in self.link.unproven.pop(settings, {}).values():
                received.unmark()
        # What is proven proves nothing of a server that is started again with other settings.
        if not whole.suffices and whole.tokens < REMEMBERED:
            self.link.drawn[settings] = whole, known
        if seen.tokens:
            self.link.figures["server_surprise"] = seen.above / seen.tokens

    def sync(self, asked: Asked, again: bool = False) -> bool:
        """Give the server the weights if it lacks them; of several processes, the first does it for all.

        Returns:
            Whether they were given, on every process.

        Raises:
            ServerError: on every process, the server did not take them.
        """
        folder, sent = self.how.weights_folder, False
        fault: ServerError | None = None
        if self.alone or torch.distributed.get_rank() == 0:
            assert folder is not None
            try:
                weights.check(self.model, self.session)
                now = fingerprint(self.model)
                sent = again or self.link.outdated(self.session, now)
                if sent:
                    text = list(asked.prompts[0]) if asked.prompts else []
                    self.link.send(self.session, self.model, folder, now, text)
            except ServerError as error:
                # The others wait to hear.
                fault = error
        away = isinstance(fault, AwayError)
        told = gathered((fault and str(fault), away, sent), self.alone)
        for said, away, _ in told:
            if said is not None:
                raise (AwayError if away else ServerError)(said) from fault
        given = any(given for *_, given in told)
        if given:
            # What was begun, a server that lost the weights since has answered by others.
            self.begun = None
        return given

    def replies(self, asked: Asked, how: Sampling, received: Received | None = None) -> Replies:
        """The completions by row, in the order in which they came, and why rows have none.

        Args:
            received: keeps them as they come.

        Raises:
            RefusedError: no row has one.
        """
        if not self.session.takes_tokens:
            raise self.lacks("token ids")
        draw = Draw(
            how.temperature,
            how.top_p,
            how.max_new_tokens,
            asked.eos_ids,
            asked.pad_id,
            asked.vocabulary,
        )
        found: dict[int, Reply] = {}

        def arrived(row: int, reply: Reply) -> None:
            if reply.ids is None or reply.log_probs is None:
                missing = "token ids" if reply.ids is None else "log-probabilities"
                raise self.lacks(missing)
            found[row] = reply
            if received is not None:
                received.add(row, asdict(reply))

        asks = [Ask(ids, seed) for ids, seed in zip(asked.prompts, asked.seeds, strict=True)]
        most = how.access.concurrency
        at_once = min(most, self.max_rows or most)
        try:
            self.session.complete(draw, asks, arrived, log_probs=True, at_once=at_once)
        except RefusedError as error:
            if not found:
                raise
            return found, error.rows
        return found, {}

    def lacks(self, missing: str) -> ServerError:
        return ServerError(
            f"{self.how.access.url} ({self.session.server.software}) returns no {missing}: training "
            "needs the sampled tokens and their log-probabilities, which "
            f"{' and '.join(TOKEN_SERVERS)} return; another server can only be used for `opdlab eval "
            "--server`"
        )


def beside(work: Callable[[], Result]) -> Future[Result]:
    """What a thread of its own comes to; the process does not wait for it when it ends."""
    found: Future[Result] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is wanted
            found.set_exception(error)

    Thread(target=run, daemon=True).start()
    return found

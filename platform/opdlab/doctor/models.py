"""Doctor's look at student and teacher: tokenizers, prompts, answers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from operator import itemgetter

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from opdlab.configuration import Experiment
from opdlab.doctor.lines import Line, failed, judged, passed, skipped
from opdlab.doctor.probe import SEARCHED, TOKENS, Cast, Probe
from opdlab.doctor.rounding import UNLIKELY, Tolerance
from opdlab.errors import ModelError, OpdlabError, ServerError
from opdlab.evaluation import sampling_engine
from opdlab.modelling import Wording, expectation, models
from opdlab.plugins import posed
from opdlab.prompts import (
    LOOKED_AT,
    PromptSource,
    encode,
    open_dataset,
    open_prompts,
    overlap_of,
    remarks,
    unknown,
)
from opdlab.records import Questions, Rollout
from opdlab.serving import OpenAIEngine
from opdlab.shapes import Float, Tensor
from opdlab.training import contexts as contexts_of_servers, token_weights

LEAST_SHIFT = 1e-2
"""Nats that log-probabilities differ by on average when they are taken for their neighbours'."""


def tokenizers(
    student: PreTrainedTokenizerBase,
    teacher: PreTrainedTokenizerBase,
    student_model: PreTrainedModel,
    teacher_model: PreTrainedModel,
    template: Wording | str = "auto",
    end: int | None = None,
) -> Line:
    """Whether both models mean the same strings by their tokens, and read text and chats alike.

    Args:
        end: of the teachers, that an end may be mapped to which the student alone has.
    """
    what = "student and teacher share tokens and template"
    try:
        shared = models.count_shared(student, teacher, student_model, teacher_model)
    except ModelError as error:
        return failed(what, str(error), "choose a teacher of the student's family")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            models.require_end(student_model, student, shared, template, end)
    except ModelError as error:
        return failed(what, str(error), "see the message")
    different = models.soft_differences(student, teacher)
    told = [*different, *(str(one.message) for one in said)]
    found = "; ".join(told) or f"{shared:,} entries shared"
    return judged(
        what, not different, found, "give both the same tokenizer files and chat template"
    )


def prompts_agree(
    config: Experiment, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase
) -> Line:
    """Whether a real prompt comes out of both tokenizers, with their templates, as the same tokens; and
    whether the student's knows all characters.
    """
    what = "a prompt is the same to both"
    try:
        prompts = open_prompts(config.prompts, student, config.seed, config.evaluation.benchmarks)
        problem = prompts.problem(0)
        ours = encode(student, problem, config.prompts.wording)
        theirs = encode(teacher, problem, config.prompts.wording)
        missing = unread(config, prompts, student)
    except (OpdlabError, NotImplementedError) as error:
        return failed(what, str(error), "correct the prompts section")
    if missing:
        return failed(
            what,
            "; ".join(missing),
            "take text in the model's characters, or a model that knows it",
        )
    found = (
        f"{len(ours)} tokens, none unknown"
        if ours == theirs
        else f"{len(ours)} tokens against {len(theirs)}"
    )
    remedy = (
        "use one chat template for both; the teacher would read prompts it was never trained on"
    )
    return judged(what, ours == theirs, found, remedy)


def rows_are_sound(config: Experiment, tokenizer: PreTrainedTokenizerBase) -> Iterator[Line]:
    """Whether a data set's rows hold problems that are measured; what else is to be told of them."""
    if config.prompts.type != "dataset":
        return
    what = "the prompts hold no problem that is measured"
    benchmarks = config.evaluation.benchmarks
    try:
        opened = open_dataset(config.prompts, tokenizer, config.seed, benchmarks)
        shared = "" if config.prompts.decontaminate else overlap_of(opened.source, benchmarks)
    except OpdlabError as error:
        yield failed("the prompts can be read", str(error), "correct the prompts section")
        return
    found = "; ".join([f"{opened.source.count:,} rows", *remarks(opened)])
    said, _, remedy = shared.rpartition(". ")
    yield failed(what, said, remedy) if shared else passed(what, found)


def unread(
    config: Experiment, prompts: PromptSource, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """Where the tokenizer meets text that it does not know, and how much: prompts, benchmarks."""
    found = {"prompts": prompts.unknown()}
    for one in config.evaluation.benchmarks:
        # Whether its data are there is another line's question.
        with suppress(OpdlabError):
            texts = [problem.prompt for problem in posed.problems(one)[:LOOKED_AT]]
            found[one.benchmark] = unknown(tokenizer, texts)
    return [f"{name}: {share}" for name, share in found.items() if share.bad_tokens]


def rollout_server(probe: Probe) -> Iterator[Line]:
    """Whether the server that rollouts are to come from is there, and good for them; it is sent nothing."""
    engine, what = probe.config.rollout, "the rollout server answers"
    if not isinstance(engine, OpenAIEngine):
        return
    ends = probe.rollout.eos_ids, probe.rollout.pad_id, probe.vocabulary
    names = "eos_ids", "pad_id", "vocabulary"
    prompt = probe.problems[0].tokens
    try:
        fits, found = engine.look(probe.student, prompt, **dict(zip(names, ends, strict=True)))  # pyright: ignore
    except ServerError as error:
        yield failed(what, str(error), "start the server, or correct rollout.url")
        return
    remedy = (
        "serve the student, or set rollout.weights_folder, a folder that the server sees as well"
    )
    yield judged(what, fits or engine.keeps_up, found, remedy)


def sampling(*runs: Experiment) -> Line:
    """Whether the student's answers are samples of its whole distribution, in every run."""
    drawn = dict.fromkeys((run.rollout.temperature, run.rollout.top_p) for run in runs)
    found = "; ".join(f"temperature {one[0]:g}, top_p {one[1]:g}" for one in drawn)
    remedy = (
        "set rollout.temperature: 1.0 and rollout.top_p: 1.0; else the tokens are not the student's own "
        "samples, and every expectation over them is another"
    )
    return judged("sampling is not truncated", set(drawn) == {(1.0, 1.0)}, found, remedy)


def answers_fit(runs: Sequence[Experiment], prompts: PromptSource, cast: Cast) -> Line:
    """Whether the longest prompt seen and the longest answer allowed are within every model's context."""
    what = "prompts and answers are within the context"
    found = {"student": cast.student, **{name: one for name, (one, _) in cast.teachers.items()}}
    contexts = {
        name: size for name, one in found.items() if (size := models.positions(one)) is not None
    }
    try:
        contexts |= contexts_of_servers(runs)
    except ServerError as error:
        return failed(what, str(error), "start the server, or correct the teacher's server.url")
    if not contexts:
        return skipped(what, "the models name no largest number of positions")
    prompt = max(len(prompts.prompt(index).tokens) for index in range(SEARCHED))
    key, answer = max((longest_answer(run) for run in runs), key=itemgetter(1))
    name, least = min(contexts.items(), key=itemgetter(1))
    said = f"{prompt} tokens of prompt + {key} {answer} = {prompt + answer}, {name} has {least}"
    remedy = (
        f"set {key} to {least - prompt} at most: beyond its context a model reads noise"
        if prompt < least
        else f"leave out prompts of {least} tokens and more, or take a {name} with more context"
    )
    return judged(what, prompt + answer <= least, said, remedy)


def longest_answer(run: Experiment) -> tuple[str, int]:
    """The key that allows the longest answers, in training or evaluation, and how many tokens."""
    trained = run.rollout.max_new_tokens
    measured = sampling_engine(run.rollout, run.evaluation).max_new_tokens
    if run.evaluation.benchmarks and measured > trained:
        return "evaluation.max_new_tokens", measured
    return "rollout.max_new_tokens", trained


def answers_end(probe: Probe) -> Line:
    """Whether answers end by EOS, and the EOS counts as one of their tokens."""
    what = "answers end, and their EOS is trained"
    rollout = probe.rollout
    last = rollout.response_lengths.cumsum(0) - 1
    lost = int((rollout.ended & ~rollout.is_eos[last]).sum())
    if lost:
        return failed(
            what, f"{lost} answers ended without their EOS", "give pad and EOS different ids"
        )
    allowed = min(TOKENS, probe.config.rollout.max_new_tokens)
    open_end = ~rollout.ended & ~rollout.is_eos[last]
    short = int((open_end & (rollout.response_lengths < allowed)).sum())
    if short:
        return failed(
            what,
            f"{short} of {len(rollout.ended)} answers stop before an EOS and before {allowed} tokens",
            "the rollout engine cuts answers, which would be trained as if they were whole: look for a "
            "limit of its own, or use another",
        )
    share = float(rollout.ended.float().mean())
    training = probe.config.training
    weights = token_weights(rollout, training.normalisation, training.mask)
    if share > 0 and not bool((weights[rollout.is_eos] > 0).any()):
        return failed(
            what,
            f"none of the {int(rollout.is_eos.sum())} EOS tokens of these answers counts in the loss",
            "change training.mask: a student that is never trained on EOS does not learn to stop",
        )
    found = f"{share:.0%} of {len(rollout.ended)} end within {int(rollout.response_lengths.max())} tokens"
    if share == 0 and probe.config.rollout.max_new_tokens > TOKENS:
        return skipped(
            what, f"{found}; the experiment allows {probe.config.rollout.max_new_tokens}"
        )
    remedy = "raise rollout.max_new_tokens, or check that the model knows its EOS"
    return judged(what, share > 0, found, remedy)


def rescored(probe: Probe) -> Line:
    """Whether what the sampler recorded of its distributions is what training computes of them."""
    allowed = probe.student_tolerance
    gaps = dict(of_the_record(probe.rollout, probe.training_log_probs(), allowed))
    worst, gap = max(gaps.items(), key=itemgetter(1))
    found = (
        f"{allowed.by} difference {gap:.1e} nats ({worst}) over {len(probe.rollout.token)} tokens"
    )
    remedy = "use rollout type `generate`, and load the student in float32"
    return judged(
        "sampled log-probabilities equal re-scored ones",
        gap <= allowed.nats,
        found,
        remedy,
    )


def of_the_record(
    rollout: Rollout, log_p: Float[Tensor, "T V"], allowed: Tolerance
) -> Iterator[tuple[str, float]]:
    """How far each recorded number is from that of a distribution, in nats."""
    # An entry that the model rules out is as far away in both.
    log_p = log_p.clamp(min=UNLIKELY)
    row, own = rollout.row, log_p.gather(-1, rollout.token[:, None])[:, 0]
    yield "token", allowed.gap(rollout.log_prob, own, row)
    yield "entropy", allowed.gap(rollout.entropy, -expectation(log_p.exp(), log_p), row)
    count = rollout.candidates.shape[1]
    if count == 0 or rollout.candidate_log_prob is None:
        return
    listed = log_p.gather(-1, rollout.candidates)
    yield "candidates", allowed.gap(listed, log_p.topk(count, -1).values, row)
    recorded = rollout.candidate_log_prob.clamp(min=UNLIKELY)
    yield "of candidates", allowed.gap(recorded, listed, row)


def self_teacher(probe: Probe) -> Line:
    """Whether a student that is its own teacher has a KL of zero, and an off-by-one would be seen."""
    what = "a student is its own perfect teacher"
    rollout, allowed = probe.rollout, probe.student_tolerance
    try:
        scores = probe.itself.score(rollout, Questions(rollout.candidates[:, :0]))
    except OpdlabError as error:
        return failed(what, str(error), "see the message")
    gap = allowed.gap(rollout.log_prob, scores.log_prob, rollout.row)
    shifted = float((rollout.log_prob - scores.log_prob.roll(1)).abs().mean())
    found = (
        f"KL {float((rollout.log_prob - scores.log_prob).mean()):.1e} nats, {allowed.by} difference "
        f"{gap:.1e}; shifted by one token {shifted:.2g}"
    )
    if shifted < LEAST_SHIFT or shifted <= allowed.nats:
        return skipped(what, f"{found}: the student's answers are too uniform to tell a shift")
    remedy = "teacher scores are off: report the model family; rollout type `generate` may help"
    return judged(what, gap <= allowed.nats, found, remedy)


def every_token_scored(probe: Probe) -> Line:
    """Whether every response token gets a finite score from the teacher."""
    rollout = probe.rollout
    what = "every response token has a teacher score"
    try:
        scores = probe.teacher.score(rollout, Questions(rollout.candidates[:, :0]))
    except OpdlabError as error:
        return failed(what, str(error), "see the message")
    share = float(scores.log_prob.isfinite().float().mean())
    found = f"{share:.0%}, mean log-probability {float(scores.log_prob.nanmean()):.2f} nats"
    return judged(what, share == 1.0, found, "load the teacher in bfloat16 or float32")

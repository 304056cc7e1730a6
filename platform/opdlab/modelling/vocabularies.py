"""What student and teacher share of their vocabularies, and the tokens by which they end their answers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from opdlab.errors import ModelError
from opdlab.modelling.end_mapping import map_end, mapped_ends, unmap_end
from opdlab.modelling.ends import closing
from opdlab.modelling.wording import Wording

_SHOWN = 5
"""Of what differs, in a message."""


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens that end a response: the generation settings' and the tokenizer's, ascending; or what these
    were mapped to.

    Raises:
        ModelError: there are none, or the settings or the tokenizer name one that the model does not have.
    """
    if (mapped := mapped_ends(model)) is not None:
        return mapped
    settings: Any = model.generation_config
    found = None if settings is None else settings.eos_token_id
    named = [one for one in (found if isinstance(found, list) else [found]) if one is not None]
    for one in named:
        if not 0 <= one < rows_of(model):
            raise ModelError(
                f"{model.config.name_or_path}: eos_token_id in generation_config.json is {found}, but the "
                f"model has {rows_of(model)} tokens, from 0; correct it there (or in config.json, if it "
                "has no generation_config.json)"
            )
    own = _token_id(tokenizer, "eos")
    if own is not None and own >= rows_of(model):
        raise ModelError(
            f"{model.config.name_or_path}: the EOS of its tokenizer is {tokenizer.eos_token!r} (id {own}), "
            f"but the model has {rows_of(model)} tokens, from 0: its embeddings did not grow with it; "
            "call resize_token_embeddings(len(tokenizer)) before it is trained to end by it, or "
            "restore eos_token in tokenizer_config.json"
        )
    ids = {*named, own} - {None}
    if not ids:
        raise ModelError(
            f"{model.config.name_or_path}: neither the tokenizer nor generation_config.json names an "
            "EOS token, so no response could end; set eos_token_id in one of them"
        )
    return tuple(sorted(ids))


def pad_id(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vocabulary: int | None = None
) -> int:
    """Filler for padded rows: the tokenizer's, else an EOS; lengths say what is real.

    Args:
        vocabulary: entries that every model which reads the rows has; one beyond them is not taken.
    """
    pad, ends = _token_id(tokenizer, "pad"), eos_ids(model, tokenizer)
    known = min(rows_of(model), vocabulary or rows_of(model))
    # Any token would do: nothing that is computed depends on it.
    return next((one for one in (pad, *ends) if one is not None and one < known), 0)


def reach(ends: tuple[int, ...], shared: int) -> int | None:
    """Entries that a teacher answers from: the shared ones, or all where those lack one of its ends."""
    return shared if max(ends) < shared else None


def require_end(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    shared: int,
    template: Wording | str = "auto",
    teachers: int | None = None,
) -> tuple[int, ...]:
    """End ids of a student that is sampled among the entries it shares with its teacher.

    One that it was trained to use and its teacher does not have is mapped to the teacher's, which is warned
    of; so is, of several, an end that is left out.

    Args:
        template: how prompts are put to the student.
        teachers: token by which the teachers end their answers; None where it is not to be mapped to.

    Raises:
        ModelError: an end that it was trained to use is not among them: the tokenizer's EOS, the one by
            which the chat template closes an answer, or all that its generation settings name.
    """
    if teachers is not None:
        # Of a model in memory: to the end of other teachers.
        unmap_end(model)
    ends = eos_ids(model, tokenizer)
    lost = [end for end in ends if end >= shared]
    if not lost:
        return ends
    settings: Any = model.generation_config
    named = None if settings is None else settings.eos_token_id
    own = named if isinstance(named, list) else [named]
    closes, eos = closing(tokenizer, ends, template), _token_id(tokenizer, "eos")
    needed = [end for end in (closes, eos) if end in lost]
    needed += lost if all(end in lost for end in own) else []
    words = {end: f"{tokenizer.convert_ids_to_tokens(end)!r} (id {end})" for end in lost}
    # An end that both have keeps its meaning.
    own_end = closes if closes in lost else next(iter(needed), None) if eos not in needed else None
    if own_end is not None and teachers is not None and teachers < shared:
        others = tuple(end for end in ends if end not in lost)
        unused = ", ".join(words[end] for end in lost if end != own_end)
        also = f"; {unused}, by which it may end too, is left out" if unused else ""
        warnings.warn(
            f"the student {model.config.name_or_path} ends its answers by {words[own_end]}, which "
            "its teacher does not have: in training and in comparisons it is the teacher's own end, "
            f"{tokenizer.convert_ids_to_tokens(teachers)!r} (id {teachers}){also}",
            UserWarning,
            stacklevel=2,
        )
        return map_end(model, own_end, teachers, others)
    if needed:
        raise ModelError(
            f"the student {model.config.name_or_path} ends its answers by {words[needed[0]]}, which is not "
            f"among the {shared} entries that it shares with its teacher, so none could end. Take "
            "a teacher whose vocabulary has it, or let the student end by a shared token: eos_token of its "
            "tokenizer, eos_token_id of its generation_config.json, and its chat template"
        )
    warnings.warn(
        f"the student {model.config.name_or_path} may end its answers by {', '.join(words.values())} too, "
        f"which is not among the {shared} entries that it shares with its teacher: in training its answers "
        f"end by {tokenizer.convert_ids_to_tokens(closes)!r}",
        UserWarning,
        stacklevel=2,
    )
    return ends


def common_end(
    teachers: Sequence[tuple[PreTrainedModel, PreTrainedTokenizerBase]],
    template: Wording | str = "auto",
) -> int | None:
    """The token by which all of some models are trained to end their answers; None where they differ."""
    found = {
        closing(tokenizer, eos_ids(model, tokenizer), template) for model, tokenizer in teachers
    }
    return found.pop() if len(found) == 1 else None


def _token_id(tokenizer: PreTrainedTokenizerBase, role: str) -> Any:
    return getattr(tokenizer, f"{role}_token_id")


def shared_vocabulary(
    student_tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
    student_model: PreTrainedModel,
    teacher_model: PreTrainedModel,
) -> int:
    """Number of leading vocabulary entries in which both models mean the same strings.

    Differences that leave the ids alone (EOS, BOS, chat template, another split of text into tokens) are
    warned of.

    Raises:
        ModelError: an id below the cut maps to different strings; the message names the first ones.
    """
    shared = count_shared(student_tokenizer, teacher_tokenizer, student_model, teacher_model)
    for difference in soft_differences(student_tokenizer, teacher_tokenizer):
        warnings.warn(f"teacher and student tokenizers: {difference}", UserWarning, stacklevel=2)
    return shared


def count_shared(
    student_tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
    student_model: PreTrainedModel,
    teacher_model: PreTrainedModel,
) -> int:
    """`shared_vocabulary` without its warnings.

    Models of one family pad their embeddings to different sizes and later members add special tokens
    at the end: logits are cut to the ids that both tokenizers and both models have.
    """
    student, teacher = _strings(student_tokenizer), _strings(teacher_tokenizer)
    shared = min(rows_of(student_model), rows_of(teacher_model), max(student) + 1, max(teacher) + 1)
    different = [i for i in range(shared) if student.get(i) != teacher.get(i)]
    if different:
        first = "; ".join(
            f"id {i}: student {student.get(i)!r}, teacher {teacher.get(i)!r}"
            for i in different[:_SHOWN]
        )
        raise ModelError(
            f"teacher and student do not share a vocabulary: {len(different)} of the first {shared} "
            f"token ids map to different strings ({first}); choose a teacher of the student's family"
        )
    return shared


def _strings(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {i: token for token, i in tokenizer.get_vocab().items()}


def rows_of(model: PreTrainedModel) -> int:
    """Entries of a model's vocabulary."""
    return model.config.get_text_config().vocab_size


_PROBE = "If 3*x = 12, then x = 4.\n\n\tdef f(n):\n        return n**2  # naïve 测试\n"


def soft_differences(
    student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase
) -> list[str]:
    """What differs between two tokenizers beyond what their ids mean, in words."""
    found = []
    uses = {
        "eos_token": "each ends its own answers by its own",
        "bos_token": "the student's is used for both",
    }
    for name, use in uses.items():
        ours, theirs = getattr(student, name), getattr(teacher, name)
        if ours != theirs:
            found.append(f"{name} is {ours!r} and {theirs!r}; {use}")
    if student.chat_template != teacher.chat_template:
        found.append(
            "chat templates differ; the teacher reads prompts in the student's template, which may "
            "be foreign to it"
        )
    split = [tokenizer.encode(_PROBE, add_special_tokens=False) for tokenizer in (student, teacher)]
    if split[0] != split[1]:
        found.append(
            "they split text into tokens differently, so the student's splits are rare to the teacher"
        )
    return found

"""The section `prompts`: what the student is asked, and how it is put to a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue, model_validator

from opdlab.configuration.posing import AnyGrader, TrainingSource
from opdlab.configuration.section import Section
from opdlab.datafiles import condition, wrap
from opdlab.modelling import Wording

OF_THE_TEMPLATE = frozenset(
    (
        *("messages", "conversation", "chat_template", "add_generation_prompt", "tokenize"),
        *("continue_final_message", "padding", "truncation", "max_length", "return_tensors"),
        *("return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs", "template_kwargs"),
    )
)
"""What opdlab itself hands to a chat template."""


def _condition(text: str) -> str:
    condition(text)
    return text


def _wrap(text: str) -> str:
    wrap(text)
    return text


def _options(options: Mapping[str, Any]) -> Mapping[str, Any]:
    own = sorted(OF_THE_TEMPLATE & options.keys())
    if own:
        raise ValueError(f"{own[0]} is set by opdlab; leave it out")
    return options


Where = Annotated[str, AfterValidator(_condition)]
WrapText = Annotated[str, AfterValidator(_wrap)]


class Worded(Section):
    """How prompts are put to a model, in training and in evaluation."""

    template: Literal["auto", "none", "chat"] = "auto"
    """`chat` applies the tokenizer's chat template, `auto` does so if there is one."""
    template_options: Annotated[dict[str, JsonValue], AfterValidator(_options)] = {}
    """Arguments for the chat template, such as `enable_thinking: false`; one that the template does not
    use is refused."""
    system: str = ""
    """System prompt, instead of the data's own; without a chat template it is put before the prompt."""
    prefill: str = ""
    """Text with which every answer begins; the model continues it, and graders see both."""

    @property
    def wording(self) -> Wording:
        """All of them as one value."""
        return Wording(self.template, self.template_options, self.system, self.prefill)


class ProblemPrompts(Worded):
    """Unlimited training problems from evaluators that can generate them; none is a test problem."""

    type: Literal["problems"]
    """Generated problems of evaluators."""
    sources: list[TrainingSource] = Field(min_length=1)
    """Each prompt is drawn from one of these, all equally likely."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first N problems, repeated in the same order; null generates new ones without
    end."""

    @property
    def graded(self) -> bool:
        """Whether answers can be graded."""
        return True

    @property
    def given(self) -> float:
        """Share of the prompts with given answers."""
        return 0.0


class ScoredPrompts(Worded):
    """Prompts and given answers of a folder that `opdlab score` made."""

    type: Literal["scored"]
    """Answers whose scores are on disk."""
    path: str = ""
    """The folder; by default that of `teacher.scores`. If the experiment has a live teacher, only the
    folder's answers are used."""
    given: float = Field(default=1.0, gt=0, le=1)
    """Share of the prompts that train on the folder's answer; the student answers the others, and a live
    teacher, which is then required, scores both."""
    shuffle: bool = True
    """Shuffle answers by `seed`, in a new order in each pass; otherwise keep the folder's order."""

    @property
    def graded(self) -> bool:
        """Whether answers can be graded."""
        return False


class DataSource(Section):
    """One of several data sets; keys that are null are taken from `prompts`."""

    path: str
    """See `prompts.path`."""
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Share of the prompts, relative to the weights of the other sources; sizes do not matter."""
    name: str | None = None
    """Configuration of a data set on the hub that has several."""
    revision: str | None = None
    """Commit or tag on the hub."""
    split: str | None = None
    """Split of the data set."""
    column: str | None = None
    """Column of the prompts."""
    domain: str | None = None
    """Domain of all its rows, for `specialists`."""
    domain_column: str | None = None
    """Column that names each row's domain."""
    answer_column: str | None = None
    """Column of the reference answers."""
    grader: AnyGrader | None = None
    """How answers are graded."""
    completion_column: str | None = None
    """Column of given answers."""
    wrap: WrapText | None = None
    """Text around each prompt."""
    where: Where | None = None
    """Condition on rows."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first N remaining rows."""


class DatasetPrompts(Worded):
    """Prompts from files, or from data sets on the hub."""

    type: Literal["dataset"]
    """Rows of files or of data sets on the hub."""
    path: str | None = None
    """A .jsonl, .json, .csv, .tsv, .parquet, .arrow or .feather file, or a .txt file with one prompt
    per line (column `text`); text files may be compressed (.gz, .bz2, .xz, .zst). A pattern of such
    files (`data/*.jsonl`), or a folder. Else a name on the Hugging Face hub. A relative path starts at
    the experiment file; one from the command line, or from a shipped experiment, at the current
    folder."""
    sources: list[DataSource] = []
    """Several data sets instead of `path`, each with a weight; keys that they leave out are taken from
    here."""
    name: str | None = None
    """Configuration of a data set on the hub that has several."""
    revision: str | None = None
    """Commit or tag on the hub; required for the hub, refused for a file."""
    split: str = "train"
    """Split of the data set; a file may hold several splits by name."""
    column: str = "prompt"
    """Column with a text or a list of messages; a dotted path reads inside structs
    (`extra_info.question`). The assistant's last turn is not part of the prompt."""
    domain: str = "dataset"
    """Domain of all rows, for `specialists`."""
    domain_column: str | None = None
    """Column that names each row's domain."""
    answer_column: str | None = None
    """Column with the reference answers for `grader`; for `code`, with the tests."""
    grader: AnyGrader | None = None
    """How answers are graded: `math`, `exact`, `choice`, `numeric`, `code`, or another plugin of
    `opdlab.graders`; options are given in a mapping, `{type: code, cpu_limit_s: 5}`."""
    completion_column: str | None = None
    """Column of given answers, for `given`; by default the assistant's last turn in `column`."""
    given: float = Field(default=0.0, ge=0, le=1)
    """Share of the prompts that train on the given answer instead of a sampled one, at the same places
    of the sequence in every run. 1 with method `sft` is supervised fine-tuning on the data; methods
    that compare whole distributions accept any share."""
    wrap: WrapText | None = None
    """Text around each prompt, such as `"{prompt}\\nAnswer in \\\\boxed{{}}."`; other columns can be
    used in braces as well. In a list of messages it wraps the user's last turn."""
    where: Where | None = None
    """Use only rows that meet a condition on columns, such as `level >= 3 and source in ["a", "b"]`."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first N remaining rows of each source."""
    shuffle: bool = True
    """Shuffle rows by `seed`, in a new order in each pass; otherwise keep the file's order."""
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """Longest prompt in tokens, template included; null for as many as the models' positions allow."""
    too_long: Literal["error", "drop"] = "error"
    """What to do with prompts above `max_prompt_tokens`."""
    drop: list[Literal["empty", "duplicate", "broken"]] = []
    """Rows to leave out: `empty` (no prompt), `duplicate` (the prompt of an earlier row, whitespace
    aside), `broken` (unreadable). Otherwise empty and broken rows are errors, and duplicates stay."""
    decontaminate: bool = False
    """Leave out prompts that share 13 words in a row with a problem of `evaluation.benchmarks`."""

    @model_validator(mode="after")
    def _whole(self) -> DatasetPrompts:
        if self.path is None and not self.sources:
            raise ValueError(
                "path: missing; name a file, a folder or a data set, or give `sources`"
            )
        if self.path is not None and self.sources:
            raise ValueError("path: it is set beside `sources`; make it one of them, or remove it")
        if self.given and self.prefill:
            raise ValueError("prefill: it does not go with `given` answers; remove it")
        if not self.given and any(one.completion_column for one in self.resolved()):
            raise ValueError(
                "completion_column: given answers are used where `given` is above 0; set `given: 1` for "
                "all of them"
            )
        if self.sources and (self.name or self.revision):
            key = "name" if self.name else "revision"
            raise ValueError(f"{key}: with several sources it belongs to one of them; put it there")
        for number, one in enumerate(self.resolved()):
            where = f"sources.{number}." if self.sources else ""
            if (one.answer_column is None) != (one.grader is None):
                lacking = "grader" if one.grader is None else "answer_column"
                other = "answer_column" if one.grader is None else "grader"
                raise ValueError(f"{where}{lacking}: missing; {other} needs it")
        return self

    def resolved(self) -> list[DataSource]:
        """The sources, each with what it takes from the section."""
        shared = {name: getattr(self, name) for name in DataSource.model_fields if name in _SHARED}
        if not self.sources:
            assert self.path is not None
            alone = {"path": self.path, "name": self.name, "revision": self.revision}
            return [DataSource.model_construct(**shared, **alone, weight=1.0)]
        return [
            one.model_copy(
                update={name: value for name, value in shared.items() if getattr(one, name) is None}
            )
            for one in self.sources
        ]

    @property
    def graded(self) -> bool:
        """Whether answers to all prompts can be graded."""
        return all(one.grader is not None for one in self.resolved())


_SHARED = frozenset(
    (
        *("split", "column", "domain", "domain_column", "answer_column", "grader"),
        *("completion_column", "wrap", "where", "limit"),
    )
)
"""What sources may leave to the section."""
Prompts = Annotated[ProblemPrompts | DatasetPrompts | ScoredPrompts, Field(discriminator="type")]

"""Where thinking ends is one rule for evaluation, rewards, regrading and diagnosis."""

import re
from dataclasses import dataclass, fields

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from opdlab.configuration.evaluation_settings import Evaluation
from opdlab.diagnosis.observation import Tokens
from opdlab.diagnosis.observe import Asked, Bench, graded
from opdlab.evaluation.measured import draw_missing, grade_missing, judge
from opdlab.evaluation.regrading import regrade_set
from opdlab.evaluation.store import ask
from opdlab.evaluation.subjects import Answer, Measured
from opdlab.identity.measurement import Measurement
from opdlab.identity.model_id import ModelId
from opdlab.modelling.answer_part import marks_of, own_part, read, text_of, written
from opdlab.plugins.evaluator import Evaluator
from opdlab.prompts.drawn import ProblemSource
from opdlab.records import Generation, Problem, Rollout
from opdlab.sampling.rollout import CachedEngine
from opdlab.training.grading import outcomes
from opdlab_evaluators.answers.grading import grade_answers
from opdlab_evaluators.benchmarks.gsm8k import Gsm8k

PONDER = (
    "{% for m in messages %}{% if m.reasoning_content %}<ponder>{{ m.reasoning_content }}</ponder>"
    "{% endif %}<|u|>{{ m['content'] }}{% endfor %}<|a|>"
)
CUT_AT = "{% for m in messages %}{{ m.content.split('[/MUSE]')[-1] }}{% endfor %}<|a|>"
ANNOUNCED = (
    "{% set start = 'Here are my reasoning steps:\\n' %}{% for m in messages %}"
    "{{ m.content.split('[BEGIN FINAL RESPONSE]')[-1] | trim }}{% endfor %}<|a|>{{ start }}"
)
TOOLS = "<tool_call>{{ x }}</tool_call>{% for m in messages %}{{ m['content'] }}{% endfor %}<|a|>"
GUESS = r"I guess \boxed{17}"
SAID = r"So it is \boxed{18}."


def tokenizer_of(special=(), normal=(), template=None):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bare.decoder = decoders.ByteLevel()
    marks = ("<s>", "</s>", "<pad>", "<|u|>", "<|a|>", *special)
    bare.add_special_tokens([AddedToken(m, special=True, normalized=False) for m in marks])
    bare.add_tokens([AddedToken(m, special=False, normalized=False) for m in normal])
    made = PreTrainedTokenizerFast(
        tokenizer_object=bare, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    made.chat_template = template
    return made


def verdict(said, prompt="q<|a|>", thinking="", stop="eos"):
    row = Generation("1", 0, 0, prompt, said, 9, stop, 0.0, thinking)
    return judge(Gsm8k(), [(Problem("gsm8k", "1", "q", "18"), row)])[0].status


TAGS = [
    ("<think>", "</think>"),
    ("<thought>", "</thought>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ("<|open|>think<|sep|>", "<|close|>think<|sep|><|open|>response<|sep|>"),
]


@pytest.mark.parametrize(("opening", "closing"), TAGS)
def test_the_answer_follows_the_thinking_however_it_is_marked(opening, closing):
    assert verdict(f"{opening}{GUESS}{closing}{SAID}") == "correct"
    assert verdict(f"{opening}{SAID} Let me", stop="length") == "truncated"
    assert verdict(f"{opening}{SAID} Let me") == "no_answer"


@pytest.mark.parametrize(("opening", "closing"), TAGS)
def test_a_prompt_that_opens_thinking_leaves_nothing_of_a_cut_one(opening, closing):
    assert verdict(f"{SAID} Let me", f"q{opening}\n", stop="length") == "truncated"
    assert verdict(f"{GUESS}{closing}{SAID}", f"q{opening}\n") == "correct"
    assert verdict(SAID, f"q{opening}\n\n{closing}\n\n") == "correct"


@pytest.mark.parametrize(
    ("template", "opening", "closing"),
    [
        (PONDER, "<ponder>", "</ponder>"),
        (CUT_AT, "[MUSE]", "[/MUSE]"),
        (ANNOUNCED, "Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
    ],
)
def test_marks_that_only_a_template_knows_are_stored_beside_the_completion(
    template, opening, closing
):
    marks = marks_of(tokenizer_of(template=template))
    assert marks == ((opening, closing),)
    kept = written(marks)
    assert read(kept) == marks
    assert verdict(f"{opening}{GUESS}{closing}{SAID}", thinking=kept) == "correct"
    assert verdict(f"{opening}{SAID} so", thinking=kept, stop="length") == "truncated"
    assert verdict(f"{SAID} so", f"q{opening}", kept, "length") == "truncated"


def test_other_tags_of_a_template_are_no_thinking():
    assert marks_of(tokenizer_of(template=TOOLS)) == ()
    assert marks_of(tokenizer_of()) == ()


def test_a_mark_in_quotes_is_one_that_the_answer_speaks_of():
    program = "MARK = '</think>'\nOPEN = \"<think>\""
    assert own_part(program) == program
    assert own_part(f"<think>it ends with `</think>` I know</think>{program}") == program
    # A fence that closes in front of a mark is no quote.
    assert own_part("<think>```\nx\n```</think>```\ny\n```") == "```\ny\n```"


@pytest.mark.parametrize("special", [True, False])
def test_decoding_keeps_the_marks_of_thinking_and_no_other_special_token(special):
    tags = ("<think>", "</think>")
    made = tokenizer_of(**{"special" if special else "normal": tags})
    ids = made.encode(f"{tags[0]}{GUESS}{tags[1]}{SAID}<|u|></s><pad>", add_special_tokens=False)
    assert text_of(made, ids) == f"{tags[0]}{GUESS}{tags[1]}{SAID}"


@pytest.mark.parametrize(
    ("opening", "closing", "end"),
    [
        (
            "<|channel|>analysis<|message|>",
            "<|end|><|start|>assistant<|channel|>final<|message|>",
            "<|return|>",
        ),
        (
            "<|channel|>analysis<|message|>",
            "<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>",
            "<|return|>",
        ),
        ("<|channel>thought\n", "<channel|>", ""),
        (
            "<|open|>think<|sep|>",
            "<|close|>think<|sep|><|open|>response<|sep|>",
            "<|close|>response<|sep|>",
        ),
        ("<think>", "</think>\n<response>", "</response>"),
    ],
)
def test_decoding_keeps_the_channels_of_a_model_whose_marks_are_several_tokens(
    opening, closing, end
):
    pieces = re.findall(r"<\|\w+\|?>|<\w+\|>", f"{opening}{closing}{end}")
    made = tokenizer_of(special=dict.fromkeys(pieces))

    def said(text):
        return text_of(made, made.encode(text, add_special_tokens=False))

    assert own_part(said(f"{opening}{GUESS}{closing}{SAID}{end}")) == SAID
    assert own_part(said(f"{opening}{SAID} Let me")) == ""


def test_a_prompt_that_opens_the_answer_leaves_its_end_out():
    prompt = "<|open|>response<|sep|>"
    assert own_part(f"{SAID}<|close|>response<|sep|>", prompt) == SAID


def test_decoding_changes_no_blank():
    pieces = sorted(set("abcdefghijklmnopqrstuvwxyz!=,.?'[]:0123456789_+\n▁"))
    model = models.Unigram([("<unk>", 0.0), *((piece, -1.0) for piece in pieces)], unk_id=0)
    bare = Tokenizer(model)
    bare.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    bare.decoder = decoders.Metaspace(prepend_scheme="never")
    made = PreTrainedTokenizerFast(
        tokenizer_object=bare, unk_token="<unk>", clean_up_tokenization_spaces=True
    )
    text = "if a != b : x = [1 , 2] return ' ?'"
    assert text_of(made, made.encode(text, add_special_tokens=False)) == text


@dataclass(frozen=True)
class Sums(Evaluator):
    """As a plugin is written: sums in words, graded by the package's grader of mathematics."""

    benchmark = "sums"
    grader_version = "1"

    def problems(self):
        return [self.training_problem(0, index) for index in range(2)]

    def training_problem(self, seed, index):
        return Problem("sums", str(index), "What is 9+9?", "18")

    def grade(self, problem, completion):
        return grade_answers([(problem.gold, completion)])[0]


OPENED = "{% for m in messages %}{{ m['content'].split('</ponder>')[-1] }}{% endfor %}<ponder>\n"
# A template, what the model says, whether it ended by itself, and whether that is right.
SPOKEN = {
    "a cut thought that the template opened": (OPENED, f"{SAID} Let me", False, False),
    "a cut thought that says it ended": (OPENED, f"{SAID} Let me", True, False),
    "a thought that the template opened": (OPENED, f"{GUESS}</ponder>{SAID}", True, True),
    "only the thought is right": (OPENED, f"{SAID}</ponder>{GUESS}", True, False),
    "a thought of its own": (PONDER, f"<ponder>{GUESS}</ponder>{SAID}", True, True),
    "a cut thought of its own": (PONDER, f"<ponder>{SAID}", False, False),
    "a thought opened again": (PONDER, f"<ponder>a</ponder>{GUESS}<ponder>{SAID}", True, False),
    "no thought": (PONDER, SAID, True, True),
}


def rollout_of(prompt, said, ended, made):
    return Rollout(
        tokens=torch.tensor([[*prompt, *said]]),
        prompt_lengths=torch.tensor([len(prompt)]),
        response_lengths=torch.tensor([len(said)]),
        ended=torch.tensor([ended]),
        log_prob=torch.zeros(len(said)),
        entropy=torch.zeros(len(said)),
        candidates=torch.zeros(len(said), 0, dtype=torch.long),
        candidate_log_prob=torch.zeros(len(said), 0),
        seeds=torch.tensor([0]),
        eos_ids=(made.eos_token_id,),
        pad_id=made.pad_token_id,
    )


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("name", SPOKEN)
def test_evaluation_training_regrading_and_diagnosis_judge_the_same_part(name, special, tmp_path):
    template, said, ended, right = SPOKEN[name]
    marks = ("<ponder>", "</ponder>")
    made = tokenizer_of(marks if special else (), () if special else marks, template)
    source = ProblemSource([Sums()], made, "auto", 0)
    prompt = source.prompt(0)
    ids = made.encode(said, add_special_tokens=False)
    rollout = rollout_of(prompt.tokens, ids, ended, made)
    training = outcomes(rollout, [prompt.problem], source, made).tolist()

    kept = ask(tmp_path, measurement())
    settings = Evaluation(samples=1, max_new_tokens=99)
    answer = Answer(text_of(made, ids), len(ids), "eos" if ended else "length")
    engine = CachedEngine(max_new_tokens=99)
    one = Scripted(
        tokenizer=made, engine=engine, eos_ids=(1,), pad_id=2, template="auto", said=answer
    )
    draw_missing(kept, one, settings, [(prompt.problem, 0)])
    grade_missing(kept, Sums())
    regraded = regrade_set(kept, Later())
    grades = [*kept.grades("1").values(), *kept.grades("2").values()]

    asked = Asked(0, 0, prompt.problem, Sums())
    diagnosed = []
    for cut in (1, len(ids) // 2):
        shown = (*prompt.tokens, *ids[:cut])
        finished = rollout_of(shown, ids[cut:], ended, made)
        start = Tokens(**dict.fromkeys((f.name for f in fields(Tokens)), np.array(ids)))
        diagnosed += graded(bench_of(made), [(asked, start)], finished, cut)

    assert training == [float(right)]
    assert [grade.status == "correct" for grade in grades] == [right, right]
    assert [found.status == "correct" for found in diagnosed] == [right, right]
    # Nothing but the thought may have been cut short.
    assert {found.status for found in (*grades, *diagnosed)} == {grades[0].status}
    assert regraded.changed == {}


@dataclass(frozen=True)
class Later(Sums):
    """The same with a newer grader."""

    grader_version = "2"


@dataclass(frozen=True)
class Scripted(Measured):
    """A model that always says the same."""

    said: Answer

    def identity(self):
        return ModelId(weights="w", tokenizer="t", template="p", ends=(1,))

    def software(self):
        return {}

    def answer(self, engine, prompts, seeds, rows, tokens, on_answer, on_tick, received):
        for row in range(len(prompts)):
            on_answer(row, self.said)


def measurement():
    return Measurement(
        model="m", role="model", subject=ModelId(weights="w", tokenizer="t", template="p", ends=(1,)),
        benchmark="sums", evaluator={"type": "sums"}, data="d", shown="s", problems=1,
        template="auto", temperature=1.0, top_p=1.0, max_new_tokens=99, seed=0, samples=1, grader="1",
        software={},
    )  # fmt: skip


def bench_of(tokenizer):
    unused = dict.fromkeys((f.name for f in fields(Bench)), None)
    return Bench(**{**unused, "tokenizer": tokenizer, "template": "auto"})


def test_the_next_question_is_cut_off_after_the_thinking():
    asked = Gsm8k(wording="question_answer")
    problem = Problem("gsm8k", "1", "q", "18")
    thought = "<think>Question: how many? 9 * 2 = 18</think> The answer is 18."
    assert asked.grade(problem, thought).status == "correct"
    assert asked.grade(problem, "The answer is 18.\n\nQuestion: next\nAnswer: 5").answer == "18"

"""Where thinking ends is one rule for evaluation, rewards, regrading and diagnosis."""

from dataclasses import dataclass

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from opdlab.evaluation import judge
from opdlab.evaluator import Evaluator
from opdlab.own_part import marks_of, own_part, read, text_of, written
from opdlab.prompts import ProblemSource, rendered
from opdlab.records import Generation, Problem, Rollout
from opdlab.training.grading import outcomes
from opdlab_evaluators.answers.grading import grade_answers
from opdlab_evaluators.benchmarks.gsm8k import Gsm8k

PONDER = (
    "{% for m in messages %}{% if m.reasoning_content %}<ponder>{{ m.reasoning_content }}</ponder>"
    "{% endif %}<|u|>{{ m['content'] }}{% endfor %}<|a|>"
)
CUT_AT = "{% for m in messages %}{{ m.content.split('[/MUSE]')[-1] }}{% endfor %}<|a|>"
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
    [(PONDER, "<ponder>", "</ponder>"), (CUT_AT, "[MUSE]", "[/MUSE]")],
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


@pytest.mark.parametrize("special", [True, False])
def test_decoding_keeps_the_marks_of_thinking_and_no_other_special_token(special):
    tags = ("<think>", "</think>")
    made = tokenizer_of(**{"special" if special else "normal": tags})
    ids = made.encode(f"{tags[0]}{GUESS}{tags[1]}{SAID}<|u|></s><pad>", add_special_tokens=False)
    assert text_of(made, ids) == f"{tags[0]}{GUESS}{tags[1]}{SAID}"


def test_decoding_keeps_the_channels_of_a_model_whose_marks_are_several_tokens():
    pieces = ("<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|return|>")
    made = tokenizer_of(special=pieces)
    said = f"<|channel|>analysis<|message|>{GUESS}<|end|><|start|>assistant"
    said += f"<|channel|>final<|message|>{SAID}<|return|>"
    text = text_of(made, made.encode(said, add_special_tokens=False))
    assert own_part(text) == SAID


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
        return [self.training_problem(0, 1)]

    def training_problem(self, seed, index):
        return Problem("sums", str(index), "What is 9+9?", "18")

    def grade(self, problem, completion):
        return grade_answers([(problem.gold, completion)])[0]


def test_training_pays_for_no_guess_that_an_evaluation_calls_cut_off():
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}<think>\n"
    made = tokenizer_of(special=("<think>", "</think>"), template=template)
    source = ProblemSource([Sums()], made, "auto", 0)
    prompt = source.prompt(0)
    rewards = []
    for said in (f"{SAID} Let me", f"{GUESS}</think>{SAID}"):
        ids = made.encode(said, add_special_tokens=False)
        rollout = Rollout(
            tokens=torch.tensor([[*prompt.tokens, *ids]]),
            prompt_lengths=torch.tensor([len(prompt.tokens)]),
            response_lengths=torch.tensor([len(ids)]),
            ended=torch.tensor([False]),
            log_prob=torch.zeros(len(ids)),
            entropy=torch.zeros(len(ids)),
            candidates=torch.zeros(len(ids), 0, dtype=torch.long),
            candidate_log_prob=torch.zeros(len(ids), 0),
            seeds=torch.tensor([0]),
            eos_ids=(made.eos_token_id,),
            pad_id=made.pad_token_id,
        )
        rewards += outcomes(rollout, [prompt.problem], source, made).tolist()
        shown = rendered(made, prompt.problem.prompt, "auto")
        row = Generation("1", 0, 0, shown, text_of(made, ids), 9, "length", 0.0)
        rewards.append(float(judge(Sums(), [(prompt.problem, row)])[0].status == "correct"))
    assert rewards == [0.0, 0.0, 1.0, 1.0]


def test_the_next_question_is_cut_off_after_the_thinking():
    asked = Gsm8k(wording="question_answer")
    problem = Problem("gsm8k", "1", "q", "18")
    thought = "<think>Question: how many? 9 * 2 = 18</think> The answer is 18."
    assert asked.grade(problem, thought).status == "correct"
    assert asked.grade(problem, "The answer is 18.\n\nQuestion: next\nAnswer: 5").answer == "18"

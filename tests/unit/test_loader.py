"""Experiment files: what is accepted, what is said about what is not, and what is saved."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import example, given, settings, strategies as st

from opdlab.configuration import documents
from opdlab.configuration.config import Experiment
from opdlab.configuration.explain import capped
from opdlab.configuration.loader import (
    json_schema,
    load,
    load_experiment,
    load_pretraining,
    run_names,
    save_resolved,
    variants,
)
from opdlab.configuration.pretrain_config import Pretraining
from opdlab.errors import ConfigError
from opdlab.files import shipped
from opdlab.plugins import registry as plugins

EVALUATORS = ", ".join(plugins.names(plugins.EVALUATORS))
BASE = """\
name: base
student: {path: embedded:student}
teacher: {path: embedded:teacher}
prompts:
  type: problems
  sources:
    - {type: math}
rollout:
  type: cached
  max_new_tokens: 80
method:
  type: lgr
  reward_weight: 1.0
training:
  steps: 10
  learning_rate: 1e-3
"""
RUNS = (
    BASE
    + """\
runs:
  - name: plain
    set:
      method: {type: opd}
  - name: far
    set:
      method.reward_weight: 0.3
      evaluation.samples: 4
"""
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(text: str) -> str:
    Path("x.yaml").write_text(text)
    return "x.yaml"


def refusal(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(written(text), overrides)
    return str(caught.value).splitlines()


def with_line(old: str, new: str, text: str = BASE) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


def test_a_good_file_loads_with_its_defaults():
    config = load(written(BASE))
    assert isinstance(config, Experiment)
    assert config.training.learning_rate == 0.001
    assert config.training.betas == (0.9, 0.999)
    assert type(config.method).__name__ == "LGR"
    assert config.evaluation.samples == 8


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "max_new_tokens: 80",
            "group_sise: 4",
            "x.yaml:10: unknown key rollout.group_sise: cached has no such option. "
            "Did you mean rollout.group_size?",
        ),
        (
            "type: lgr",
            "type: opd",
            "x.yaml:13: unknown key method.reward_weight: opd has no such option. "
            "It is an option of lgr.",
        ),
        (
            "learning_rate: 1e-3",
            "learning_rat: 1e-3",
            "x.yaml:16: unknown key training.learning_rat. Did you mean training.learning_rate?",
        ),
        (
            "{path: embedded:teacher}",
            "{path: embedded:teacher, zzz: 1}",
            "x.yaml:3: unknown key teacher.zzz. Known keys: dtype, offload, path, revision, "
            "scores, server.",
        ),
        ("steps: 10", "steps: ten", "x.yaml:15: training.steps must be a whole number, not 'ten'"),
        ("steps: 10", "steps: true", "x.yaml:15: training.steps must be a whole number, not true"),
        ("steps: 10", "steps: 10.5", "x.yaml:15: training.steps must be a whole number, not 10.5"),
        ("steps: 10", "steps:", "x.yaml:15: training.steps must be a whole number, not empty"),
        ("steps: 10", "steps: 0", "x.yaml:15: training.steps must be at least 1, not 0"),
        ("1e-3", "-1.0", "x.yaml:16: training.learning_rate must be above 0, not -1.0"),
        ("1e-3", ".inf", "x.yaml:16: training.learning_rate must be a finite number, not inf"),
        ("name: base", "name: 5", "x.yaml:1: name must be text, not 5; put it in quotes"),
        (
            "name: base",
            "name: a/b",
            "x.yaml:1: name must match ^[A-Za-z0-9][A-Za-z0-9_.-]*$, which 'a/b' does not",
        ),
        ("  steps: 10\n", "", "x.yaml:14: missing key training.steps"),
        ("  - {type: math}", "  []", "x.yaml:6: prompts.sources must have at least 1 item(s), not 0"),
        (
            "    - {type: math}",
            "    {type: math}",
            "x.yaml:6: prompts.sources must be a list, not a mapping",
        ),
        (
            "    - {type: math}",
            "    - {type: math}\n    - {type: matth}",
            f"x.yaml:8: prompts.sources.1.type must be one of {EVALUATORS}, not 'matth'. "
            "Did you mean math?",
        ),
        (
            "  type: lgr\n",
            "",
            "x.yaml:11: missing key method.type; choose one of forward_kl, future_kl, grpo, jsd, "
            "kl_estimator, lgr, opd, reopold, sft",
        ),
        (
            "  type: problems\n",
            "",
            "x.yaml:4: missing key prompts.type; choose one of dataset, problems, scored",
        ),
        (
            "type: problems\n  sources:\n    - {type: math}",
            "type: problem\n  path: a.jsonl",
            "x.yaml:5: prompts.type must be one of dataset, problems, scored, not 'problem'. "
            "Did you mean problems?",
        ),
        (
            "type: problems\n  sources:\n    - {type: math}",
            "type: dataset",
            "x.yaml:4: prompts: path: missing; name a file, a folder or a data set, or give `sources`",
        ),
        (
            "training:\n",
            "evaluation: [math]\ntraining:\n",
            "x.yaml:14: evaluation must be a mapping (key: value), not a list",
        ),
        (
            "name: base",
            "name: base\nkind: trian",
            "x.yaml:2: kind must be one of train, pretrain, not 'trian'. Did you mean train?",
        ),
        (
            "embedded:student}",
            "embedded:student, dtype: float33}",
            "x.yaml:2: student.dtype must be one of float32, bfloat16, float16, not 'float33'. "
            "Did you mean float32?",
        ),
        ("1e-3", "1e-3\n  betas: [0.9]", "x.yaml:17: training.betas has too few items: there is no item 1"),
        (
            "1e-3",
            "1e-3\n  warmup_steps: 10",
            "x.yaml:17: training.warmup_steps (10) must be below training.steps (10)",
        ),
        ("1e-3", "1e-3\n  steps: 3", "x.yaml:17: key steps appears twice, first in line 15"),
        (
            "training:",
            "training: {",
            "x.yaml:16: no YAML: while parsing a flow mapping expected ',' or '}', but got ':'",
        ),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_file_line_and_key(old: str, new: str, message: str):
    assert refusal(with_line(old, new)) == [message]


def test_all_faults_are_told_at_once_in_the_order_of_the_file():
    text = with_line("steps: 10", "steps: ten")
    text = with_line("{path: embedded:student}", "{pth: embedded:student}", text)
    assert refusal(text, "trainig.steps=4", "rollout.temperature=-1") == [
        "x.yaml:2: missing key student.path",
        "x.yaml:2: unknown key student.pth. Did you mean student.path?",
        "x.yaml:15: training.steps must be a whole number, not 'ten'",
        "command line: rollout.temperature must be at least 0, not -1",
        "command line: unknown key trainig. Did you mean training?",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.yaml:1: the file is empty; an experiment was expected"),
        ("# nothing\n", "x.yaml:1: the file is empty; an experiment was expected"),
        ("- name: x\n", "x.yaml:1: a mapping (key: value) was expected, not a list"),
        ("just words\n", "x.yaml:1: a mapping (key: value) was expected, not 'just words'"),
        (
            "a:\n\tb: 1\n",
            "x.yaml:2: no YAML: while scanning for the next token found character '\\t' that "
            "cannot start any token; indent with spaces, not tabs",
        ),
        (
            "a: 1\n---\nb: 2\n",
            "x.yaml:2: no YAML: expected a single document in the stream but found another document",
        ),
        ("a: &x [*x]\n", "x.yaml:1: an alias contains itself"),
        (
            "a: !!python/name:os.system x\n",
            "x.yaml:1: the tag !!python/name:os.system is not known here; write a plain value, and text in "
            "quotes",
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_no_mapping_is_refused(text: str, message: str):
    assert refusal(text) == [message]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "a\x07b",
            "no YAML: the character U+0007 is not allowed in a file; delete it, or write it as an escape "
            'inside of "..."',
        ),
        ('"\\U00110000"', "no YAML: an escape names no character"),
        ('"\\UFFFFFFFF"', "no YAML: an escape names no character"),
        ("!!timestamp 2020-01-01", "the tag !!timestamp is not known here; write a plain value"),
        ("!!binary aGVsbG8=", "the tag !!binary is not known here"),
        ("!!set {a, b}", "the tag !!set is not known here"),
        ("!own x", "the tag !own is not known here"),
        ("!!int abc", "'abc' is no !!int; leave the tag out"),
        ("!!float abc", "'abc' is no !!float"),
        ("!!bool maybe", "'maybe' is no !!bool"),
        ("!!map x", "!!map is not a type of a single value"),
        ("!!str [x]", "!!str is not a type of a mapping or list"),
        ("{!!int x: 1}", "'x' is no !!int"),
        ("1" * 26, "a number of 26 digits is more than any key takes"),
        ("1" * 5000, "a number of 5,000 digits is more than any key takes"),
        ("0x" + "f" * 5000, "a number of 5,002 digits is more than any key takes"),
        ("[" * 3000 + "]" * 3000, "no YAML: more than 100 levels inside each other"),
        ('"\\ud800"', "'\\ud800' holds half of a character; write it whole"),
    ],
)
def test_what_no_key_can_hold_is_told_with_its_line(value: str, message: str):
    (fault,) = refusal(f"{BASE}description: {value}\n")
    assert fault.startswith(f"x.yaml:{BASE.count(chr(10)) + 1}: {message}")
    (fault,) = refusal(BASE, f"description={value}")
    assert fault.startswith(f"command line: description={value[:20]}")
    assert f": {message}" in fault
    assert len(fault) < 300


LONGEST = "".join(chr(ord("a") + n % 26) for n in range(10_000))


@pytest.mark.parametrize(
    "written",
    [
        "name: {long}",
        "name: a b {long}",
        "seed: {long}",
        "seed: '{long} and more'",
        "method: {{type: {long}}}",
        "method: {{type: lgr, {long}: 1}}",
        "training: {{steps: 3, normalisation: {long}}}",
        "{long}: 1",
        "runs: [{{name: {long}}}, {{name: {long}}}]",
        "runs: [{{name: a, set: {{{long}: 1}}}}]",
        "teacher: {{path: x, {long}: 1}}",
        "rollout: {{type: openai, url: {long}}}",
        "{long}: 1\n{long}: 2",
        "sweep: {{space: {{{long}: {{type: int, low: 1, high: 2}}}}, trials: 2}}",
        "description: {{{long}: 1",
    ],
)
def test_a_value_that_is_too_long_is_not_repeated_whole(written: str):
    key = written.partition(":")[0]
    rest = re.sub(rf"^{key}:.*\n( .*\n)*", "", BASE, flags=re.MULTILINE)
    for fault in refusal(f"{rest}{written.format(long=LONGEST)}\n"):
        assert len(fault) < 1300
        assert fault.startswith("x.yaml:")


def test_the_ends_of_a_fault_that_is_too_long_are_told():
    told = capped("a" * 5000 + "b" * 5000)
    assert told == "a" * 800 + " ... (8,800 characters) ... " + "b" * 400
    assert capped("c" * 1200) == "c" * 1200


def test_aliases_that_repeat_each_other_end_in_words():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    told = refusal("\n".join(lines))
    assert [fault.partition(": ")[2] for fault in told] == [
        "no YAML: more than 100,000 values, aliases included"
    ]
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 200)]
    assert "more than 100 levels inside each other" in refusal("\n".join(lines))[0]


def test_a_file_that_is_no_text_is_refused():
    Path("x.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match=r"x\.yaml: not a text file in UTF-8"):
        load("x.yaml")


def test_values_are_read_by_the_rules_of_yaml_1_2():
    text = BASE + "tracking:\n  uri: 12:30\n  experiment: no\n"
    tracking = load_experiment(written(text)).tracking
    assert (tracking.uri, tracking.experiment) == ("12:30", "no")


def test_an_anchor_can_be_used_and_overridden_in_one_place_alone():
    text = with_line("student: {path: embedded:student}", "student: &m {path: embedded:student}")
    text = with_line("{path: embedded:teacher}", "*m", text)
    config = load_experiment(written(text), ["teacher.path=embedded:other"])
    assert (config.student.path, config.teacher.path) == ("embedded:student", "embedded:other")


def test_a_merged_key_is_found_where_it_was_written():
    text = with_line("embedded:student}", "embedded:student, dtype: f, revision: 1}")
    text = with_line("student: {", "student: &m {", text)
    text = with_line("{path: embedded:teacher}", "{<<: *m, path: t, revision: 2}", text)
    assert [line.split(" must")[0] for line in refusal(text)] == [
        "x.yaml:2: student.revision",
        "x.yaml:2: student.dtype",
        "x.yaml:2: teacher.dtype",
        "x.yaml:3: teacher.revision",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.steps", "command line: training.steps: an override has the form key.path=value"),
        ("=5", "command line: =5: an override has the form key.path=value"),
        ("training.steps=ten", "command line: training.steps must be a whole number, not 'ten'"),
        (
            "rollout.group_sise=2",
            "command line: unknown key rollout.group_sise: cached has no such option. "
            "Did you mean rollout.group_size?",
        ),
        (
            "training.steps.x=2",
            "command line: training.steps.x=2: training.steps is not a section, so "
            "training.steps.x cannot be set",
        ),
        (
            "prompts.sources.1.type=code",
            "command line: prompts.sources.1.type=code: prompts.sources is a list of 1; "
            "name one by its number from 0",
        ),
        (
            "method=[",
            "command line: method=[: no YAML: while parsing a flow node expected the node content, but "
            "found '<stream end>'",
        ),
        (
            "seed={a: 1, a: 2}",
            "command line: seed={a: 1, a: 2}: key a appears twice, first in line 1",
        ),
    ],
)  # fmt: skip
def test_a_fault_of_an_override_names_the_command_line(override: str, message: str):
    assert refusal(BASE, override) == [message]


def test_overrides_reach_lists_sections_and_keys_that_the_file_leaves_out():
    overrides = [
        "prompts.sources.0.type=code",
        "evaluation.samples=2",
        "method={type: opd}",
        "description=a: b",
    ]
    with pytest.raises(ConfigError, match="description must be text, not a mapping"):
        load(written(BASE), overrides)
    config = load_experiment("x.yaml", [*overrides[:3], "description='a: b'"])
    assert type(config.prompts.sources[0]).__name__ == "StackCode"  # type: ignore[union-attr]
    assert config.evaluation.samples == 2
    assert type(config.method).__name__ == "OPD"
    assert config.description == "a: b"


def test_runs_share_everything_but_what_they_set():
    config = load_experiment(written(RUNS))
    assert run_names(config) == ["plain", "far"]
    (_, plain), (_, far) = variants(config)
    assert type(plain.method).__name__ == "OPD"
    assert far.method == load_experiment(written(with_line("1.0", "0.3"))).method
    assert (plain.evaluation.samples, far.evaluation.samples) == (8, 4)
    shared = {"method", "evaluation", "runs"}
    assert plain.model_dump(exclude=shared) == config.model_dump(exclude=shared)
    assert plain.runs == far.runs == []


def test_an_override_below_a_run_leaves_the_rest_of_the_section_as_it_is():
    text = with_line("learning_rate: 1e-3", "learning_rate: 3e-5, gradient_clip: 0.1", RUNS)
    text = text.replace("training:\n  steps: 10\n  ", "training: {steps: 10, ").replace(
        "0.1\n", "0.1}\n"
    )
    overrides = ["runs.0.set.training.steps=5", "runs.1.set.training.mask.last=3"]
    config = load_experiment(written(text), overrides)
    (_, plain), (_, far) = variants(config)
    assert plain.training == config.training.model_copy(update={"steps": 5})
    assert (far.training.mask.last, far.training.gradient_clip) == (3, 0.1)
    # Where the run replaces the whole section, the key is one of what it puts there.
    (_, plain), _ = variants(load_experiment("x.yaml", ["runs.0.set.method.support=sampled"]))
    assert (type(plain.method).__name__, plain.method.full) == ("OPD", False)
    assert refusal(RUNS, "runs.0.set.training.stepz=5") == [
        "command line: run plain: unknown key training.stepz. Did you mean training.steps?"
    ]


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["training.precision=bf16-true"], "training.precision"),
        (["student.dtype=bfloat16", "training.precision=bf16-mixed"], "student.dtype"),
    ],
    ids=["true", "mixed"],
)
def test_weights_that_steps_of_this_size_cannot_move_are_refused(overrides: list[str], key: str):
    small = "training.learning_rate=9e-6"
    with pytest.raises(
        ConfigError, match=rf"{key}: weights in half precision do not move in steps"
    ):
        load(written(BASE), [*overrides, small])
    load("x.yaml", overrides)
    load("x.yaml", ["training.precision=bf16-mixed", "teacher.dtype=bfloat16", small])


def test_a_section_after_a_key_of_its_own_is_refused_wherever_both_are_set():
    def of(run: str) -> str:
        return with_line("      method: {type: opd}", f"      {run}", RUNS)

    text = of("{training.learning_rate: 2, training: {steps: 5}}")
    key = "training.learning_rate"
    assert refusal(text) == [
        f"x.yaml:20: run plain: training would replace what {key} has set; write {key} after it"
    ]
    overrides = ["training.learning_rate=2", "training={steps: 5}"]
    with pytest.raises(ConfigError, match=f"training would replace it; write {key} after it"):
        load(written(BASE), overrides)
    after = load_experiment("x.yaml", overrides[::-1]).training
    assert (after.steps, after.learning_rate) == (5, 2)


def test_a_longer_key_of_a_space_stands_beside_the_shorter_one():
    space = """sweep:
  trials: 2
  space:
    method: {type: choice, values: {opd: {type: opd}, lgr: {type: lgr}}}
    method.top_k: {type: int, low: 2, high: 4, when: {method: lgr}}
evaluation: {benchmarks: [{type: math, level: short}]}
"""
    overrides = [
        "sweep.space.method.reward_weight={type: float, low: 0.1, high: 1, when: {method: lgr}}",
        "sweep.space.method.reward_weight.when.method.top_k=3",
        "sweep.space.method.reward_weight.high=2",
        "sweep.space.method.values.lgr.top_k=3",
    ]
    sweep = load_experiment(written(BASE + space), overrides).sweep
    assert sweep is not None
    assert list(sweep.space) == ["method", "method.top_k", "method.reward_weight"]
    weight, methods = sweep.space["method.reward_weight"], sweep.space["method"]
    assert weight.when == {"method": "lgr", "method.top_k": 3}
    assert weight.ends() == [0.1, 2]
    assert methods.values["lgr"] == {"type": "lgr", "top_k": 3}  # type: ignore[union-attr]


SWEPT = """\
evaluation: {benchmarks: [{type: math, level: short}]}
sweep:
  trials: 2
  space:
    training.learning_rat: {type: float, low: 1e-4, high: 1e-3}
  constraints: [{metric: repetition, at_most: 1}]
"""


@pytest.mark.parametrize(
    ("old", "new", "more"),
    [
        ("lgr", "jzd", ["method.type must be one of"]),
        ("steps: 10", "stepz: 10", ["missing key training.steps", "unknown key training.stepz"]),
        ("{path: embedded:teacher}", "{}", ["missing key teacher.path"]),
        ("steps: 10", "steps: 10\n  warmup_steps: 99", ["training.warmup_steps (99) must be"]),
    ],
    ids=["method", "training", "teacher", "cross_check"],
)
def test_the_faults_of_a_sweep_are_told_with_those_of_its_experiment(
    old: str, new: str, more: list[str]
):
    told = refusal(with_line(old, new) + SWEPT)
    wanted = [*more, "sweep.constraints.0.metric: a run has no metric repetition. Did you mean"]
    if "stepz" not in new:  # a section that was at fault itself says nothing of its keys
        wanted.append("unknown key training.learning_rat. Did you mean training.learning_rate?")
    for words in wanted:
        assert sum(words in line for line in told) == 1, (words, told)
    assert len(told) == len(wanted), told


def test_an_experiment_without_runs_is_one_run_named_after_its_method():
    config = load_experiment(written(BASE))
    assert variants(config) == [("lgr", config)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "method.reward_weight",
            "method.reward_wieght",
            "x.yaml:23: run far: unknown key method.reward_wieght: lgr has no such option. "
            "Did you mean method.reward_weight?",
        ),
        (
            "samples: 4",
            "samples: 0",
            "x.yaml:24: run far: evaluation.samples must be at least 1, not 0",
        ),
        (
            "{type: opd}",
            "{type: opd, reward_weight: 1.0}",
            "x.yaml:20: run plain: unknown key method.reward_weight: opd has no such option. "
            "It is an option of lgr.",
        ),
        (
            "method: {type: opd}",
            "method.type: opd",
            "x.yaml:20: run plain: replace the whole section, method: {type: ...}, not only its type",
        ),
        (
            "evaluation.samples: 4",
            "output: there",
            "x.yaml:24: run far: output belongs to the whole experiment; a run cannot set it",
        ),
        (
            "evaluation.samples: 4",
            "method.reward_weight.x: 1",
            "x.yaml:24: run far: method.reward_weight is not a section, so method.reward_weight.x "
            "cannot be set",
        ),
        (
            "name: far",
            "name: plain",
            "x.yaml:17: runs: the name 'plain' is used twice; names must differ in more than case",
        ),
        ("- name: far\n    set", "- set", "x.yaml:21: missing key runs.1.name"),
    ],
)  # fmt: skip
def test_a_fault_of_a_run_points_at_its_line(old: str, new: str, message: str):
    assert message in refusal(with_line(old, new, RUNS))


@pytest.mark.parametrize(
    "name", ["student", "Teacher", "model", "references", "config.yaml", "results.json"]
)
def test_a_run_called_as_the_layout_calls_what_it_writes_is_refused(name: str):
    (message,) = refusal(with_line("name: far", f"name: {name}", RUNS))
    assert f"{name!r} is a name of opdlab's own folders" in message


def test_runs_that_would_be_measured_in_different_ways_are_refused():
    text = RUNS.replace("runs:", "evaluation: {benchmarks: [{type: math}]}\nruns:", 1)
    told = (
        "x.yaml:23: run far would be measured in another way than run plain, by {}, and could not"
    )
    (message,) = refusal(text)
    assert message.startswith(told.format("evaluation.samples"))
    lengths = with_line("evaluation.samples: 4", "rollout.max_new_tokens: 5", text)
    (message,) = refusal(lengths)
    assert message.startswith(told.format("rollout.max_new_tokens"))
    assert message.endswith("set evaluation.max_new_tokens for all of them")
    load_experiment("x.yaml", ["evaluation.max_new_tokens=9"])
    often = with_line("evaluation.samples: 4", "evaluation.every: 5", text)
    assert run_names(load_experiment(written(often))) == ["plain", "far"]


def test_a_fault_that_all_runs_share_is_told_once():
    text = with_line("steps: 10", "steps: 0", RUNS)
    assert refusal(text) == ["x.yaml:15: training.steps must be at least 1, not 0"]


def test_an_override_that_a_run_would_undo_is_refused_with_the_way_to_say_it():
    assert refusal(RUNS, "method.reward_weight=2.0") == [
        "x.yaml:20: run plain: sets method, so method.reward_weight=2.0 on the command line would "
        "be lost; override runs.0.set.method.reward_weight=2.0",
        "x.yaml:23: run far: sets method.reward_weight, so method.reward_weight=2.0 on the command "
        "line would be lost; override runs.1.set.method.reward_weight=2.0",
    ]
    config = load_experiment("x.yaml", ["runs.1.set.method.reward_weight=2.0"])
    assert variants(config)[1][1].method.reward_weight == 2.0  # type: ignore[attr-defined]


def test_a_file_of_another_kind_names_the_command_for_it():
    with pytest.raises(ConfigError, match="is of kind train: run it with `opdlab train`"):
        load_pretraining(written(BASE))


def test_a_wrong_name_lists_the_shipped_experiments(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "paper").mkdir()
    for name in ("quickstart", "paper/small"):
        (tmp_path / f"{name}.yaml").write_text(BASE)
    monkeypatch.setattr(shipped, "folder", lambda: tmp_path)
    monkeypatch.chdir("/")
    assert load("paper/small").name == load("quickstart.yaml").name == "base"
    with pytest.raises(ConfigError) as caught:
        load("quickstrat")
    assert str(caught.value).splitlines() == [
        "quickstrat: no such file, and no shipped experiment has this name. Did you mean quickstart?",
        "Shipped experiments:",
        "  paper/small",
        "  quickstart",
    ]


SHIPPED = shipped.experiments()


def test_there_are_shipped_experiments():
    assert SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_experiment_loads_and_its_resolved_form_loads_to_the_same(name: str):
    config = load(name)
    save_resolved(config, Path("resolved.yaml"))
    assert load("resolved.yaml") == config
    if isinstance(config, Experiment):
        for run, variant in variants(config):
            save_resolved(variant, Path(f"{run}.yaml"))
            assert load(f"{run}.yaml") == variant


def test_a_method_inside_another_is_saved_and_loaded_like_one() -> None:
    config = load("quickstart", ["runs=[]", "method={type: lgr, base: {type: jsd, beta: 0.25}}"])
    assert isinstance(config, Experiment)
    assert config.method.base.beta == 0.25  # type: ignore[attr-defined]
    save_resolved(config, Path("resolved.yaml"))
    assert load("resolved.yaml") == config


def test_a_section_that_may_be_left_out_has_its_keys_known() -> None:
    with pytest.raises(ConfigError, match=r"sweep.trails. Did you mean sweep.trials\?"):
        load("sweeps/lookahead", ["sweep.trails=3"])


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_experiment_fits_the_committed_schema(name: str):
    schema = json.loads((shipped.folder() / "experiment.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    data = documents.read(SHIPPED[name], name).data
    validator.validate(data)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(data | {"tarining": 1})


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_experiment_names_the_schema_and_says_what_it_is_for(name: str):
    schema = shipped.folder() / "experiment.schema.json"
    first = SHIPPED[name].read_text().splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (SHIPPED[name].parent / first.partition("=")[2]).resolve() == schema.resolve()
    assert load(name).description


def test_the_committed_schema_is_current():
    committed = json.loads((shipped.folder() / "experiment.schema.json").read_text())
    assert committed == json_schema(), "run `make schema`"


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@settings(max_examples=50)
@given(
    description=TEXT,
    rate=st.floats(min_value=0, exclude_min=True, max_value=1e30),
    seed=st.integers(min_value=0, max_value=2**63 - 1),
    revision=st.sampled_from(
        ["no", "1e3", "0123", "12:30", "~", "", "2024-01-01", "0x1f", "<<", "=", "1_000", ".5"]
    ),
)
def test_what_is_saved_loads_to_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    description: str,
    rate: float,
    seed: int,
    revision: str,
):
    folder = tmp_path_factory.mktemp("saved")
    data = yaml.safe_load(BASE.replace("1e-3", "0.001"))
    data |= {"description": description, "seed": seed}
    data["training"]["learning_rate"] = rate
    data["student"]["revision"] = revision
    config = Experiment.model_validate_json(json.dumps(data))
    save_resolved(config, folder / "x.yaml")
    assert load(folder / "x.yaml") == config


@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False) | TEXT, st.lists))
@example("a\x85b")
@example(["\u2028", " \u2029"])
def test_what_is_written_is_read_back(data: object):
    assert documents.value(documents.text(data)) == data


def test_a_pretraining_file_loads_as_one():
    text = """\
kind: pretrain
name: small
characters: "abc"
architecture: {hidden_size: 48, layers: 2, heads: 4, intermediate_size: 96}
sources: [{type: math}]
steps: 100
"""
    assert isinstance(load_pretraining(written(text)), Pretraining)
    with pytest.raises(ConfigError, match="is of kind pretrain: run it with `opdlab pretrain`"):
        load_experiment("x.yaml")


DATASET = """\
name: x
student: {path: "embedded:student"}
teacher: {path: "embedded:teacher"}
prompts: {type: dataset, path: data/mine.jsonl}
rollout: {type: cached}
method: {type: opd}
training: {steps: 1, prompts_per_step: 1}
runs:
  - {name: a, set: {}}
  - {name: b, set: {prompts.path: ../other.csv}}
"""


def test_a_file_of_prompts_lies_beside_the_experiment_that_names_it(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "x.yaml").write_text(DATASET)
    runs = dict(variants(load_experiment(folder / "x.yaml")))
    paths = {name: getattr(run.prompts, "path", "") for name, run in runs.items()}
    assert paths == {"a": f"{folder}/data/mine.jsonl", "b": f"{tmp_path}/other.csv"}


def test_a_file_of_prompts_of_the_command_line_lies_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(DATASET)
    config = load_experiment(tmp_path / "x.yaml", ["prompts.path=here.jsonl", "runs=[]"])
    assert getattr(config.prompts, "path", "") == str(Path.cwd() / "here.jsonl")


def test_a_shipped_experiment_takes_its_file_of_prompts_from_the_current_folder() -> None:
    config = load_experiment("paper/7b")
    assert getattr(config.prompts, "path", "") == str(Path.cwd() / "prompts.jsonl")


@pytest.mark.parametrize("kind", ["[train]", "{}", "3", "null"])
def test_a_kind_that_is_no_word_is_told_with_its_line(kind: str) -> None:
    (line,) = refusal(f"name: x\nkind: {kind}\n")
    assert line.startswith("x.yaml:2: kind must be one of train, pretrain, not ")


def test_every_key_of_the_schema_has_a_description() -> None:
    bare = [
        f"{name}.{key}"
        for name, section in json_schema()["$defs"].items()
        for key, value in section.get("properties", {}).items()
        if "description" not in value
    ]
    assert not bare


def test_a_step_that_overflows_the_optimizer_is_refused() -> None:
    """AdamW would end in a traceback: it divides the rate by 1 - beta, and the weights hold up to 3e38."""
    (line,) = refusal(BASE, "training.learning_rate=3e38")
    assert line == "command line: training.learning_rate must be at most 1e+30, not 3e+38"

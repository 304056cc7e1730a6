"""Mutants that some test must kill: mistakes made on purpose, and those that frameworks have shipped."""

from __future__ import annotations

from changes import METHODS, Mutant

ORACLE = "tests/unit/test_oracle.py"
CHAINS = "tests/parity/test_chains.py"
BY_HAND = "tests/unit/test_methods.py"
TRAINED = "tests/unit/test_objectives_train.py"
DIAGNOSED = "tests/unit/test_diagnosis.py"
HACKING = "tests/unit/test_hacking.py"
FIDELITY = "platform/opdlab/diagnosis/fidelity.py"
DECAY = "platform/opdlab/diagnosis/decay.py"
OBSERVE = "platform/opdlab/diagnosis/observe.py"
WEIGHTS = "platform/opdlab/training/weights.py"
ALARMS = "platform/opdlab/training/hacking.py"
MISBEHAVING = "tests/unit/test_misbehaving_servers.py"
LEDGER = "evaluators/opdlab_evaluators/embedded/ledger.py"


def _contract(word: str) -> tuple[str, ...]:
    return ORACLE, "-k", f"declares and {word}"


def _served(name: str, file: str, before: str, after: str, tests: str) -> Mutant:
    file = f"platform/opdlab/serving/{file}".replace("serving/../", "")
    return Mutant(f"server: {name}", file, before, after, (MISBEHAVING, "-k", tests))


MUTANTS = (
    # Objectives.
    Mutant(
        "future_kl: the discount does not compound",
        METHODS + "future_kl.py",
        "        padded[:, t] = total\n",
        "        padded[:, t] = padded[:, t] + discount * (padded[:, t + 1 :].sum(-1) if t + 1 < "
        "padded.shape[1] else 0) if discount not in (0, 1) else total\n",
        (ORACLE, "-k", "whole_future or declares and future_kl and 99"),
    ),
    Mutant(
        "future_kl: a token answers for the next one alone",
        METHODS + "future_kl.py",
        "total = padded[:, t] + discount * total\n        padded[:, t] = total",
        "own = padded[:, t].clone()\n        padded[:, t] = own + discount * total\n        total = own",
        _contract("future_kl"),
    ),
    Mutant(
        "reopold: the floor is log(lambda)",
        METHODS + "reopold.py",
        "math.log(self.mixture / (1 - self.mixture))",
        "math.log(self.mixture)",
        _contract("reopold"),
    ),
    Mutant(
        "reopold: the floor's fraction is turned round",
        METHODS + "reopold.py",
        "math.log(self.mixture / (1 - self.mixture))",
        "math.log((1 - self.mixture) / self.mixture)",
        _contract("reopold"),
    ),
    Mutant(
        "reopold: no floor",
        METHODS + "reopold.py",
        "ratio.clamp(min=self.reward_floor)",
        "ratio",
        _contract("reopold"),
    ),
    Mutant(
        "grpo: scale batch divides by the variance",
        METHODS + "grpo.py",
        "graded.std(correction=0)",
        "graded.var(correction=0)",
        (TRAINED, "-k", "batchs_deviation"),
    ),
    Mutant(
        "grpo: scale batch divides by the deviation within groups",
        METHODS + "grpo.py",
        "graded.std(correction=0)",
        "centred[known].square().mean().sqrt()",
        (TRAINED, "-k", "batchs_deviation"),
    ),
    Mutant(
        "grpo: advantage_clip is not applied in the mixture",
        METHODS + "grpo.py",
        "clip_advantage(scores.log_prob - rollout.log_prob, self.advantage_clip)",
        "scores.log_prob - rollout.log_prob",
        (BY_HAND, ORACLE, "-k", "teachers_part or declares and grpo and clip"),
    ),
    Mutant(
        "grpo: the group's deviation is the sample's",
        METHODS + "grpo.py",
        "index_add(0, group, centred.square()) / count",
        "index_add(0, group, centred.square()) / (count - 1).clamp(min=1)",
        (TRAINED, "-k", "worked_out_by_hand"),
    ),
    Mutant(
        "grpo: an answer whose grader failed counts in its group",
        METHODS + "grpo.py",
        "index_add(0, group, known.float())",
        "index_add(0, group, torch.ones_like(values))",
        (TRAINED, "-k", "worked_out_by_hand"),
    ),
    Mutant(
        "grpo: an answer whose grader failed gets minus the mean",
        METHODS + "grpo.py",
        "centred = (values - mean[group]).where(known, 0.0)",
        "centred = values - mean[group]",
        (TRAINED, "-k", "worked_out_by_hand"),
    ),
    Mutant(
        "lgr: reward_clip after the weight",
        METHODS + "lookahead.py",
        "(r.clamp(-limit, limit) for r in (sampled, candidates))",
        "(r.clamp(-limit / weight, limit / weight) for r in (sampled, candidates))",
        (BY_HAND, "-k", "limited_before"),
    ),
    Mutant(
        "lgr: the topk variant acts where the sampled one does",
        METHODS + "lgr.py",
        'return found & ~rollout.is_eos if self.variant == "sampled" else found',
        "return found & ~rollout.is_eos",
        (BY_HAND, ORACLE, "-k", "methods or declares and topk"),
    ),
    Mutant(
        "lgr: the floor is added to the deviation",
        METHODS + "lookahead.py",
        "scale = deviation.clamp(min=floor)",
        "scale = deviation + floor",
        (BY_HAND,),
    ),
    Mutant(
        "lgr: the group's deviation is the sample's",
        METHODS + "lookahead.py",
        "(group - mean).square().nanmean(-1).sqrt()",
        "((group - mean).square().nansum(-1) / (grouped.sum(-1) - 1).clamp(min=1)).sqrt()",
        (BY_HAND,),
    ),
    Mutant(
        "lgr: the sign of the paper's printed formula",
        METHODS + "lgr.py",
        "advantage = advantage + earned.sampled",
        "advantage = advantage - earned.sampled",
        (BY_HAND,),
    ),
    Mutant(
        "lgr: an EOS stays in the group",
        METHODS + "lgr.py",
        " & ~is_one_of(rollout.candidates, rollout.eos_ids)",
        "",
        (BY_HAND,),
    ),
    Mutant(
        "lgr: a shuffle leaves tokens outside the group as they are",
        METHODS + "lookahead.py",
        "own, borrowed)",
        "own, sampled)",
        (BY_HAND, "-k", "shuffled"),
    ),
    Mutant(
        "lgr: shuffles of all training seeds are the same",
        "platform/opdlab/records.py",
        "map(str, self.seeds.tolist())",
        "map(str, (self.seeds % 2**31).tolist())",
        (BY_HAND, "-k", "drawn_beside"),
    ),
    Mutant(
        "ppo: the larger of the two terms",
        METHODS + "divergences.py",
        "torch.minimum(ratio * advantage, kept * advantage)",
        "torch.maximum(ratio * advantage, kept * advantage)",
        (BY_HAND, TRAINED, "-k", "ratio or clip or epochs"),
    ),
    Mutant(
        "ppo: no clip",
        METHODS + "divergences.py",
        "torch.minimum(ratio * advantage, kept * advantage)",
        "(ratio * advantage)",
        (BY_HAND, TRAINED, "-k", "ratio or clip or epochs"),
    ),
    Mutant(
        "ppo: the clamped term alone",
        METHODS + "divergences.py",
        "torch.minimum(ratio * advantage, kept * advantage)",
        "(kept * advantage)",
        (BY_HAND, TRAINED, "-k", "ratio or clip or epochs"),
    ),
    Mutant(
        "a policy gradient may be sampled at any temperature",
        "platform/opdlab/configuration/config.py",
        "    if not config.method.own_samples or config.prompts.given == 1:\n        return\n",
        "    return\n",
        (TRAINED, "-k", "does_not_fit"),
    ),
    Mutant(
        "a policy gradient does not say that it needs the student's own samples",
        METHODS + "base.py",
        'return self.sampler == "student" and sampled',
        "return False",
        (ORACLE, "-k", "temperature_and_top_p and grpo"),
    ),
    # What carries loss.
    Mutant(
        "weights: a sequence's mean is over its whole length under a mask",
        WEIGHTS,
        "in_row.index_add_(0, rollout.row, kept)",
        "in_row.index_add_(0, rollout.row, torch.ones_like(kept))",
        (TRAINED, "-k", "mask or weights"),
    ),
    Mutant(
        "weights: a mask's last token is left out",
        WEIGHTS,
        "rollout.position <= mask.last",
        "rollout.position < mask.last",
        (TRAINED, "-k", "mask or weights"),
    ),
    Mutant(
        "weights: the share of entropy is of all tokens",
        WEIGHTS,
        "round(mask.entropy_share * int(kept.sum()))",
        "round(mask.entropy_share * len(kept))",
        (TRAINED, "-k", "mask or weights"),
    ),
    Mutant(
        "training: later epochs get answers of their own",
        "platform/opdlab/training/module.py",
        "fresh = self.fresh or self.collected is None",
        "fresh = True",
        (TRAINED, "-k", "epoch"),
    ),
    Mutant(
        "training: micro-batches are each a mean of their own",
        "platform/opdlab/training/objective.py",
        "return (batch.weights * losses.loss).sum(), losses",
        "return (batch.weights * losses.loss).sum() / batch.weights.sum(), losses",
        ("tests/unit/test_training.py", "-k", "one_gradient"),
    ),
    # Alarms.
    Mutant(
        "hacking: every fall of accuracy is an alarm, whatever the teacher says",
        ALARMS,
        "if surer > sure and right - now > least:",
        "if right - now > least:",
        (HACKING, "-k", "not graded_now"),
    ),
    Mutant(
        "hacking: windows count values and not steps",
        ALARMS,
        "if step <= self.window:\n                    self.first",
        "if len(self.first[name]) < self.window:\n                    self.first",
        (HACKING, "-k", "not graded_now"),
    ),
    Mutant(
        "hacking: loops cross from one answer to the next",
        ALARMS,
        " & (row[period:] == row[:-period])",
        "",
        (HACKING, "-k", "not graded_now"),
    ),
    # Fidelity.
    Mutant(
        "diagnosis: a hand-over begins one token late",
        OBSERVE,
        "prompts = [(*prompt_of(bench, asked), *one.token[:cut].tolist())",
        "prompts = [(*prompt_of(bench, asked), *one.token[: cut + 1].tolist())",
        (DIAGNOSED, "-k", "reads or hand_over"),
    ),
    Mutant(
        "diagnosis: the window before a hand-over is off by one",
        OBSERVE,
        "one.fidelity[cut - WINDOW : cut]",
        "one.fidelity[cut - WINDOW - 1 : cut - 1]",
        (DIAGNOSED, "-k", "hand_over"),
    ),
    Mutant(
        "diagnosis: the window after a hand-over is off by one",
        OBSERVE,
        "(position >= 1) & (position <= WINDOW)",
        "(position >= 0) & (position < WINDOW)",
        (DIAGNOSED, "-k", "empty_prefix"),
    ),
    Mutant(
        "horizon: the change is of problems drawn apart",
        DECAY,
        "first, second = (horizons(one, least, times) for one in (before, after))",
        "first = horizons(before, least, times)\n"
        "    other = resampled(len(before.total), seed + 1)\n"
        "    second = horizons(after, least, np.vstack([times[:1], other]))",
        (DIAGNOSED, "-k", "did_not_change or same_problems"),
    ),
    Mutant(
        "late fidelity: the change is of problems drawn apart",
        DECAY,
        "apart = (after.each() - before.each())[:, -late:]",
        "apart = (after.each()[::-1] - before.each())[:, -late:]",
        (DIAGNOSED, "-k", "did_not_change or same_problems"),
    ),
    Mutant(
        "horizon: the first crossing in place of the last position above",
        FIDELITY,
        "return float(above.max()) if len(above) else",
        "return float(curves.position[np.argmin(np.nan_to_num(mean) > least) - 1]) if len(above) else",
        ("tests/unit/test_fidelity.py", "-k", "horizon"),
    ),
    Mutant(
        "pair distance: the slope is turned round",
        FIDELITY,
        "r * float(teacher.std() / student.std())",
        "r * float(student.std() / teacher.std())",
        ("tests/unit/test_fidelity.py", "-k", "pearson"),
    ),
    # Scoring.
    Mutant(
        "head: confidence is of the target and not of the likeliest token",
        "platform/opdlab/modelling/head.py",
        "found[1] = -log_total",
        "found[1] = found[0]",
        ("tests/parity/test_teacher.py", "-k", "whole_forward"),
    ),
    Mutant(
        "head: the entropy is not normalised",
        "platform/opdlab/modelling/head.py",
        "expectation(p, shifted) / total",
        "expectation(p, shifted)",
        ("tests/parity/test_teacher.py", "-k", "measure"),
    ),
    Mutant(
        "chains: a leaf sees the trunk beside its chain",
        "platform/opdlab/scoring/leaf_attention.py",
        "(key < place - past)",
        "(key < place)",
        (CHAINS, "-k", "whole_forwards"),
    ),
    Mutant(
        "chains: tokens of a chain are kept beyond a window",
        "platform/opdlab/scoring/leaf_attention.py",
        "beside(*before, rule(zero, zero, self.column, column))",
        "beside(*before, None)",
        (CHAINS, "-k", "whole_forwards"),
    ),
    Mutant(
        "chains: an end does not end a chain",
        "platform/opdlab/scoring/chains.py",
        "going = ~is_one_of(token, ends)",
        "going = token >= 0",
        (CHAINS, "-k", "whole_forwards"),
    ),
    Mutant(
        "chains: the largest confidence is taken for the smallest",
        "platform/opdlab/scoring/chains.py",
        "found.amin(1).exp()",
        "found.amax(1).exp()",
        (CHAINS, "-k", "whole_forwards"),
    ),
    Mutant(
        "tree: a state's index is one token early",
        "platform/opdlab/scoring/tree.py",
        "index=(lengths.cumsum(0) - lengths)[row] + column,",
        "index=((lengths.cumsum(0) - lengths)[row] + column - 1).clamp(min=0),",
        ("tests/parity/test_teacher.py", "-k", "whole_forward"),
    ),
    # Grading.
    Mutant(
        "grading: a grader's fault is a wrong answer",
        "platform/opdlab/training/grading.py",
        "torch.nan if verdict.status in Verdict.FAULTS else right",
        "right",
        (TRAINED, "-k", "graders_fault"),
    ),
    Mutant(
        "ledger: an answer may skip rounds",
        LEDGER,
        "if why := self._skipped(problem, completion[: found.start()].split(TILL)):",
        'if why := "":',
        ("tests/unit/test_families.py", "-k", "skips_rounds"),
    ),
    Mutant(
        "ledger: a round counts under any number",
        LEDGER,
        "if piece[:1] != number:",
        "if not number:",
        ("tests/unit/test_families.py", "-k", "skips_rounds"),
    ),
    # Servers.
    _served(
        "an answer that a server cut counts as cut by the evaluation",
        "replies.py",
        'if reason == "length" and count < draw.max_new_tokens',
        'if reason == "length" and count < 0',
        "cannot_be_used",
    ),
    _served(
        "the first refused request ends all",
        "client.py",
        "                    refused[place] = self.hidden(str(error))\n",
        "                    raise\n",
        "fails_at_each_time",
    ),
    _served(
        "an aborted answer is refused",
        "replies.py",
        '(finish_reason: {reason})", again=True)',
        '(finish_reason: {reason})", again=False)',
        "aborted",
    ),
    _served(
        "a login of ~/.netrc goes along",
        "transport.py",
        "            session.trust_env = False\n",
        "",
        "proxy or no_key",
    ),
    _served(
        "a key keeps its end of line",
        "transport.py",
        'os.environ.get(self.access.key_variable, "").strip()',
        'os.environ.get(self.access.key_variable, "")',
        "no_key",
    ),
    _served(
        "the mean over a whole round tells whose weights it had",
        "likeness.py",
        "return self.worst <= limit",
        "return self.gap <= limit",
        "looked_at_by_themselves",
    ),
    _served(
        "certain tokens count as well",
        "likeness.py",
        "~(torch.minimum(theirs, ours) >= -UNCERTAIN)",
        "~(torch.minimum(theirs, ours) >= 1)",
        "from_one_that_rounds",
    ),
    _served(
        "NaN is alike",
        "likeness.py",
        "return self.worst <= limit and math.isfinite(self.gap)",
        "return not self.worst > limit",
        "numbers_that_are_none",
    ),
    _served(
        "the weights of another training are taken for one's own",
        "weights.py",
        "if others and tag != self.tag:",
        "if False:",
        "another_training_replaced",
    ),
    _served(
        "no tag is asked",
        "weights.py",
        "        tag = read_tag(session)\n        others =",
        "        tag = self.tag\n        others =",
        "lost_the_weights or another_training_replaced",
    ),
    _served(
        "nobody takes a server",
        "weights.py",
        "        take(session, parent)\n",
        "",
        "taken_by_one",
    ),
    _served(
        "a signal waits for the server",
        "client.py",
        "            check_stop()\n            try:",
        "            try:",
        "told_to and hangs",
    ),
    _served(
        "a dead engine is slow",
        "health.py",
        "if refused.status == 503:",
        "if refused.status == 599:",
        "engine_that_died",
    ),
    _served(
        "a slow engine is dead",
        "health.py",
        "TIMEOUT_S)\n        except Refused",
        "TIMEOUT_S)\n            dead = self._dead or monotonic()\n        except Refused",
        "slow_server",
    ),
    _served(
        "a file's server answers for every model",
        "../evaluation/measuring.py",
        "    engine = engine.in_process()\n",
        "",
        "measured_without_a_server",
    ),
)

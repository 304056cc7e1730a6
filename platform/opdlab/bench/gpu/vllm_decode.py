"""What a process of its own runs: decoding by vLLM on random weights. It imports nothing of opdlab.

    python vllm_decode.py '[FOLDER, ROWS, TOKENS, STEPS, DTYPE, LOG_PROBS]'

prints the seconds of a token of all rows, after so many tokens of each, on a line that begins with `SAID`.
"""

from __future__ import annotations

import json
import random
import sys
from time import perf_counter
from typing import Any

SAID = "SECONDS"


def main(order: str) -> None:
    """Two lengths, so that what comes before the first token is taken off."""
    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]

    folder, rows, tokens, steps, dtype, log_probs = json.loads(order)
    model: Any = LLM(
        model=folder,
        skip_tokenizer_init=True,
        load_format="dummy",
        dtype=dtype,
        max_model_len=tokens + 2 * steps + 8,
        max_num_seqs=rows,
        enable_prefix_caching=False,
    )
    numbers = random.Random(0)
    prompts = [
        {"prompt_token_ids": [numbers.randrange(3, 500) for _ in range(tokens)]}
        for _ in range(rows)
    ]

    def sample(count: int) -> float:
        settings = SamplingParams(
            temperature=1.0,
            max_tokens=count,
            ignore_eos=True,
            detokenize=False,
            logprobs=log_probs or None,
        )
        started = perf_counter()
        model.generate(prompts, settings, use_tqdm=False)
        return perf_counter() - started

    sample(2)
    short, long = sample(2), sample(2 + steps)
    print(SAID, (long - short) / steps, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

"""What is asked of which server: every sampling setting in its words, since what is left out it fills in.

One completion is one request to `/v1/completions`, the endpoint that takes a prompt as it is: a chat
endpoint would render it anew. Written against vLLM 0.32, which `tests/served` starts, SGLang's
documentation and source, `transformers serve` 5.23, which the tests start, and the documentation of
llama.cpp's server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opdlab.errors import ServerError
from opdlab.serving.identify import TOKEN_SERVERS, Identity
from opdlab.serving.transport import Body

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ALL = -1
"""`top_k` for all entries: SGLang's word, which vLLM takes too."""
NO_PENALTY = {"presence_penalty": 0.0, "frequency_penalty": 0.0}
"""OpenAI's own, which each server takes."""
OFF = {
    "vllm": {
        "top_k": ALL,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "min_tokens": 0,
        "stop": [],
        "ignore_eos": False,
        "skip_special_tokens": True,
    },
    "sglang": {
        "top_k": ALL,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "min_tokens": 0,
        "stop": [],
        "ignore_eos": False,
        "skip_special_tokens": True,
        # Else the token that ended the answer is cut off.
        "no_stop_trim": True,
    },
    "llama.cpp": {
        # Its own order has the temperature last, and `--samplers` may leave it out.
        "samplers": ["temperature", "top_p"],
        "grammar": "",
        "top_k": 0,
        "min_p": 0.0,
        "typical_p": 1.0,
        "repeat_penalty": 1.0,
        "top_n_sigma": -1.0,
        "xtc_probability": 0.0,
        "dry_multiplier": 0.0,
        "dynatemp_range": 0.0,
        "mirostat": 0,
        "n_keep": 0,
        "ignore_eos": False,
        "logit_bias": [],
        "stop": [],
    },
}
"""What each server would otherwise take from the model's folder, its command line or its defaults."""
TRANSFORMERS_OFF: dict[str, Any] = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "guidance_scale": 1.0,
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    "remove_invalid_values": False,
    "renormalize_logits": False,
    "token_healing": False,
    "penalty_alpha": 0.0,
    "use_mtp": False,
    "is_assistant": False,
    # Of these, None would be off, and is filled in: nothing is what these values do.
    "exponential_decay_length_penalty": [1_000_000_000, 1.0],
    "max_time": 1e9,
}
"""`generate` fills in what is None from the generation settings in the model's folder."""
TRANSFORMERS_WIDE = {"top_k": 0, "min_p": 0.0, "typical_p": 1.0}
TRANSFORMERS_WIDE |= {"epsilon_cutoff": 0.0, "eta_cutoff": 0.0}
"""The same where it samples."""
TRANSFORMERS_FIXED = (
    "assistant_early_exit",
    "constraints",
    "dola_layers",
    "force_words_ids",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "prompt_lookup_num_tokens",
    "stop_strings",
    "top_h",
    "watermarking_config",
)
"""Settings of the model's folder that no request can switch off, since only None does."""


@dataclass(frozen=True)
class Draw:
    """How an answer is drawn.

    Attributes:
        vocabulary: token ids are below it; None where it is not known.
    """

    temperature: float
    top_p: float
    max_new_tokens: int
    eos_ids: tuple[int, ...]
    pad_id: int
    vocabulary: int | None = None


def completion_body(
    server: Identity, draw: Draw, ids: Sequence[int], text: str, seed: int, log_probs: bool = False
) -> dict[str, Any]:
    """The request for one completion.

    Args:
        ids, text: the prompt, as tokens and as a text that gives these tokens.
        log_probs: also ask for the log-probability of each token.
    """
    body: dict[str, Any] = {
        "model": server.model,
        "prompt": text,
        "max_tokens": draw.max_new_tokens,
        "temperature": draw.temperature,
        "top_p": draw.top_p,
        "seed": seed,
        **NO_PENALTY,
        **OFF.get(server.software, {}),
    }
    if server.software in TOKEN_SERVERS:
        body |= {
            "prompt": list(ids),
            "stop_token_ids": list(draw.eos_ids),
            "return_token_ids": True,
        }
        body |= {"logprobs": 1} if log_probs else {}
    if server.software == "transformers":
        # There the frequency's stands for the repetition's.
        body = {name: value for name, value in body.items() if name not in NO_PENALTY}
        body["generation_config"] = _generation_config(draw)
    return body


def _generation_config(draw: Draw) -> str:
    """`transformers serve` samples greedily, or among the top 50, unless told otherwise in this way."""
    settings: dict[str, Any] = {
        "do_sample": draw.temperature > 0,
        "max_new_tokens": draw.max_new_tokens,
        "eos_token_id": list(draw.eos_ids),
        "pad_token_id": draw.pad_id,
        # No bias of one token, and a forbidden one that is skipped because it is an EOS.
        "sequence_bias": [[[draw.eos_ids[0]], 0.0]],
        "bad_words_ids": [[draw.eos_ids[0]]],
        **TRANSFORMERS_OFF,
    }
    if draw.temperature > 0:
        settings |= {"temperature": draw.temperature, "top_p": draw.top_p, **TRANSFORMERS_WIDE}
    return json.dumps(settings)


def require_plain(settings: Mapping[str, Any], where: str) -> None:
    """Refuse a model whose folder has `transformers serve` sample in ways that nobody can switch off.

    Args:
        settings: generation settings of the served model.
        where: they stand, for the message.

    Raises:
        ServerError: naming them.
    """
    odd = [name for name in TRANSFORMERS_FIXED if settings.get(name) not in (None, [], {})]
    if settings.get("cache_implementation") == "quantized":
        odd.append("cache_implementation")
    if odd:
        raise ServerError(
            f"`transformers serve` generates by settings of {where} that no request can switch off: "
            f"{', '.join(odd)}. Remove them from its generation_config.json and start the server again, or "
            "use another server (vLLM, SGLang)"
        )


def prompt_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], shown: str) -> str:
    """A text that the tokenizer turns into exactly these tokens, for a server that takes text only.

    Raises:
        ServerError: there is none: the chat template writes what the tokenizer would add again.
    """
    beginning = str(tokenizer.bos_token or "")
    candidates = [shown, shown.removeprefix(beginning)]
    for text in candidates:
        if list(tokenizer(text)["input_ids"]) == list(ids):  # pyright: ignore[reportArgumentType]
            return text
    raise ServerError(
        "this server takes prompts as text only, and no text gives the prompt's tokens; use a server that "
        f"takes token ids ({', '.join(TOKEN_SERVERS)})"
    )


def scoring_body(server: Identity, ids: Sequence[int]) -> Body:
    """A request for the log-probability of every token of a text, by vLLM's `prompt_logprobs`."""
    return {
        "model": server.model,
        "prompt": list(ids),
        "max_tokens": 1,
        "temperature": 0.0,
        "prompt_logprobs": 1,
        "return_token_ids": True,
    }

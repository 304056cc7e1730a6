"""What a step asks of teachers behind servers: requests, and the tokens in them."""

from __future__ import annotations

from opdlab.configuration import Experiment, loader

SHOWN_SHARE = 0.2
"""Of positions that are active where a method looks ahead, for an estimate."""


def behind_servers(config: Experiment) -> list[str]:
    """Addresses of the servers that teach any of the runs."""
    runs = [run for _, run in loader.variants(config)]
    servers = [one.server for run in runs for one in (run.teacher, *run.specialists)]
    return list(dict.fromkeys(server.url for server in servers if server is not None))


def asked_of_servers(run: Experiment, rows: int, prompt: int | None) -> dict[str, str]:
    """Requests and tokens of a step, at most; nothing where all teachers are in this process.

    Args:
        rows: answers of a step.
        prompt: tokens of the longest prompt; None where it is not known, and is left out.
    """
    taught = (run.teacher, *run.specialists)
    if all(one.server is None for one in taught):
        return {}
    answer = run.rollout.max_new_tokens
    length = (prompt or 0) + answer
    if any(one.server is not None and one.server.type == "opdlab" for one in taught):
        asked = rows * answer * run.method.group
        found = {"tokens for the teacher's service a step, at most": f"{rows * length:,}"}
        return found | ({"candidates among its questions, at most": f"{asked:,}"} if asked else {})
    found = {
        "requests to the teacher a step": f"{rows + 1:,}",
        "tokens that these hold, at most": f"{rows * length:,}",
    }
    if candidates := run.method.group:
        each = round(SHOWN_SHARE * answer * candidates)
        half = (prompt or 0) + answer // 2
        found |= {
            f"requests for candidates at {SHOWN_SHARE:.0%} active": f"{rows * each:,}",
            "tokens that these hold, from the server's prefix cache but for one each": (
                f"{rows * each * half:,}"
            ),
        }
    return found

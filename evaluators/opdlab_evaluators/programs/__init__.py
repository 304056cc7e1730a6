"""Programs that models write: found in the completion, run in the sandbox, judged by their results."""

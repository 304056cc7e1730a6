"""A real vLLM for tests, started, killed in part or in whole, and started again on the same port."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Self

import psutil
import requests
import torch
from end_to_end.servers import free_port
from transformers import LlamaConfig, LlamaForCausalLM

from opdlab.modelling import models

ENVIRONMENT = Path(os.environ.get("OPDLAB_VLLM") or Path(__file__).parents[2] / ".vllm")
STARTS_S = 400


def vllm_missing() -> str:
    """Why no vLLM can be started here; empty where one can."""
    if (ENVIRONMENT / "bin" / "vllm").exists():
        return ""
    return (
        f"no vLLM in {ENVIRONMENT}: tests/served/install makes it (OPDLAB_VLLM names another place)"
    )


def small_llama(folder: Path, seed: int = 0) -> Path:
    """A random Llama with the embedded student's tokenizer; heads of 64, as vLLM's CPU kernels have."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=42,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(models.EMBEDDED / "student" / name, folder / name)
    # What a server samples by where a request does not say otherwise.
    settings = {
        "eos_token_id": 2,
        "do_sample": True,
        "repetition_penalty": 1.5,
        "top_k": 3,
        "min_p": 0.3,
    }
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder


class VllmServer:
    """vLLM on one model, in its development mode."""

    def __init__(self, model: Path, *options: str) -> None:
        self.model, self.options, self.port = model, options, free_port()
        self.root = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.root}/v1"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True) -> None:
        command = [ENVIRONMENT / "bin" / "vllm", "serve", self.model, "--port", str(self.port)]
        sizes = ["--max-model-len", "256", "--dtype", "float32", "--enforce-eager"]
        settings = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
        self.process = subprocess.Popen(
            [
                *command,
                "--host",
                "127.0.0.1",
                "--served-model-name",
                "student",
                *sizes,
                *self.options,
            ],
            env={**os.environ, **settings, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until it answers."""
        assert self.process is not None
        until = time.monotonic() + STARTS_S
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if requests.get(f"{self.root}/health", timeout=2).ok:
                    return
            except requests.RequestException:
                time.sleep(0.5)
        raise AssertionError("vLLM did not start")

    def kill(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def kill_engine(self) -> None:
        """The engine alone, behind its front end."""
        assert self.process is not None
        for child in psutil.Process(self.process.pid).children(recursive=True):
            if "EngineCor" in " ".join(child.cmdline()):
                child.kill()
                return
        raise AssertionError("no engine")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

"""A teacher is loaded, tried, and served until it is stopped."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import uvicorn
from safetensors.torch import save_file
from transformers import PreTrainedModel

from opdlab import __version__, credentials
from opdlab.console import quieten
from opdlab.errors import ConfigError, Terminated
from opdlab.modelling import models
from opdlab.scores import head_tensors
from opdlab.scoring import Teacher
from opdlab.service.admission import Admission, is_loopback
from opdlab.service.app import Desk, make_app
from opdlab.service.batching import Batcher
from opdlab.service.metrics import Metrics
from opdlab.serving import SOFTWARE, Limits

SHORTEST_KEY = 16
CONNECTIONS = 1024
IDLE_S = 75
ENDING_S = 60
"""Seconds that requests have to end in once the service is stopped."""


@dataclass(frozen=True)
class Asked:
    """What is served, and where.

    Attributes:
        model: as `models.load_model` takes it; a revision behind `@`.
        devices: a copy of the model on each; `auto` for a GPU if there is one.
        key_variable: environment variable that holds the API key, if any.
        places: requests for scores at once; more are told to come again.
    """

    model: str
    dtype: str = "float32"
    devices: Sequence[str] = ("auto",)
    host: str = "127.0.0.1"
    port: int = 0
    key_variable: str = credentials.TEACHING_KEY
    places: int = 128
    limits: Limits = field(default_factory=Limits)

    @property
    def local(self) -> bool:
        """Whether this machine alone is served."""
        return is_loopback(self.host)


@dataclass(frozen=True)
class Service:
    """A teacher that is ready: the application, and what answers in it."""

    app: Admission
    desk: Desk


@contextmanager
def open_service(asked: Asked) -> Iterator[Service]:
    """Load and try the teacher; within, the application answers.

    Raises:
        ConfigError: everybody would be let in, or the key is too short to be one.
        ModelError: the model cannot be loaded, or cannot be a teacher.
    """
    key = _key(asked)
    quieten()
    first, *others = [_loaded(asked, device) for device in asked.devices]
    teachers = [Teacher(model).probe() for model in (first, *others)]
    most = models.positions(first) or asked.limits.tokens
    limits = replace(asked.limits, longest=min(most, asked.limits.tokens))
    with TemporaryDirectory(prefix="opdlab-teach-") as folder:
        told = _told(asked, first, teachers[0].way, limits)
        head, metrics = Path(folder) / "head.safetensors", Metrics()
        save_file(head_tensors(first), head, {"identity": json.dumps(told["identity"])})
        batcher = Batcher(teachers, limits, metrics)
        desk = Desk(batcher, metrics, limits, told, told["vocabulary"], head)
        try:
            yield Service(make_app(desk, key, asked.places, asked.local), desk)
        finally:
            batcher.close()


def serve(asked: Asked, tell: Callable[[str], object]) -> None:
    """Serve until a signal comes; requests that are under way are answered.

    Raises:
        ConfigError: see `open_service`; or the address is taken.
    """
    with _listening(asked) as listener, open_service(asked) as service:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        guarded = "with an API key" if service.app.key else "without an API key"
        tell(f"serving {asked.model} at http://{shown}:{port} ({guarded}); /docs shows its paths")
        config = uvicorn.Config(
            service.app,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=ENDING_S,
        )
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except Terminated:
            tell("stopped; requests that were under way have been answered")


def _listening(asked: Asked) -> socket.socket:
    family = socket.AF_INET6 if ":" in asked.host else socket.AF_INET
    try:
        return socket.create_server((asked.host, asked.port), family=family)
    except OSError as error:
        raise ConfigError(
            f"{asked.host}:{asked.port} cannot be served at ({error.strerror or error}); take another "
            "--port, or 0 for any that is free"
        ) from error


def _key(asked: Asked) -> str:
    key = os.environ.get(asked.key_variable, "").strip()
    if not key and not asked.local:
        raise ConfigError(
            f"--host {asked.host} lets other machines in, and {asked.key_variable} holds no API key; set "
            "it there and where the teacher is used"
        )
    if key and len(key) < SHORTEST_KEY:
        raise ConfigError(
            f"the key in {asked.key_variable} has fewer than {SHORTEST_KEY} characters; take a longer one"
        )
    return key


def _loaded(asked: Asked, device: str) -> PreTrainedModel:
    return models.load_model(asked.model, None, asked.dtype, _usable(device))


def _usable(name: str) -> str:
    if name == "auto":
        return models.device("auto")
    try:
        return str(torch.empty(0, device=name).device)
    except (RuntimeError, AssertionError) as error:
        said = str(error).splitlines()[0]
        raise ConfigError(
            f"--devices {name}: it cannot be used here ({said:.120}); leave --devices out"
        ) from error


def _told(asked: Asked, model: PreTrainedModel, way: str, limits: Limits) -> dict[str, Any]:
    """What the service says of its teacher."""
    teacher = models.manifest(model, asked.model)
    names = ("weights_sha256", "config_sha256", "dtype")
    config = model.config.get_text_config()
    return {
        "software": SOFTWARE,
        "version": __version__,
        "identity": hashlib.sha256(repr([teacher[name] for name in names]).encode()).hexdigest(),
        "teacher": teacher,
        "dtype": teacher["dtype"],
        "vocabulary": int(config.vocab_size),
        "hidden_bytes": int(config.hidden_size) * model.dtype.itemsize,
        "positions": models.positions(model),
        "way": way,
        "limits": asdict(limits),
    }

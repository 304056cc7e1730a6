"""Bad weather for all commands: each is disturbed at random, and must then end well when it is left alone.

    python tests/chaos.py --seed 3 --minutes 30

After each disturbance there is no traceback, the same command ends well (with `--resume` where it trains),
every step of a training is recorded once, files of others are as they were, and nothing is written
elsewhere. The seed decides what happens; how far a command had got when it happened does not repeat.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

from end_to_end.laboratory import Laboratory
from end_to_end.warm import start

from opdlab.tracking.mlflow_store import open_client

NAME = "[bold]o'ps $(x) \u00fc [/data]"
STEPS = 8
LIMIT_S = 120
PRETRAINING = ("pretrain/student", "steps=20", "checkpoint_every=4", "evaluation.benchmarks=[]")
PRETRAINING += tuple(
    f"architecture.{key}={value}"
    for key, value in {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 16}.items()
)
READS = (
    "diagnose",
    "doctor",
    "compare",
    "leaderboard",
    "report",
    "samples",
    "regrade",
    "sync",
    "plan",
    "validate",
    "power",
)


class Weather:
    """A laboratory with files of somebody else in it, and what happens to it."""

    def __init__(self, folder: Path, store: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.laboratory = Laboratory(folder / NAME, store)
        self.notes = folder / NAME / "site" / "notes.txt"
        self.notes.parent.mkdir()
        self.notes.write_text("somebody else's")
        self.outside = folder / "elsewhere"
        self.outside.mkdir()
        self.environment = os.environ | {
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "1",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        }
        self.story: list[str] = []
        self.made = 0
        self.left: list[Path] = []  # places that the runs were moved away from

    def words(self, command: str, *more: str) -> list[str]:
        """The command line."""
        laboratory = self.laboratory
        file = laboratory.write(
            training__steps=STEPS,
            training__checkpoint_every=2,
            sweep={"space": {"method.top_k": {"type": "int", "low": 2, "high": 5}}, "trials": 1},
        )
        group, page = laboratory.output / "small-001", laboratory.folder / "page.html"
        run = str(group / "lgr")
        found = {
            "eval": [str(file), "--model", str(laboratory.student)],
            "compare": [run, str(self._evaluated())],
            "leaderboard": [str(laboratory.output), "--to", str(laboratory.folder / "board")],
            "report": [run, "--output", str(laboratory.output), "--to", str(page)],
            "samples": [run],
            "regrade": [run],
            "sync": ["--output", str(laboratory.output)],
            "pretrain": [*PRETRAINING, "warmup_steps=2", f"output={self._made()}"],
        }
        return [command, *found.get(command, [str(file)]), *more]

    def _made(self) -> Path:
        """Where the next model is made; one that is done is not made again."""
        return self.laboratory.output / f"made-{self.made}"

    def _evaluated(self) -> Path:
        return next(self.laboratory.output.glob("evaluations/*"), Path("none"))

    def begin(self, words: list[str]) -> Any:
        self.story.append("opdlab " + " ".join(words))
        return start(*words, environment=self.environment)

    def end(self, process: Any) -> str:
        """What it printed; there is no traceback."""
        text, _ = process.communicate(timeout=LIMIT_S)
        self.story.append(f"  {process.returncode}: {text[-300:]}")
        assert "Traceback" not in text, self.told(text)
        return text

    def told(self, text: str) -> str:
        """All that happened."""
        return "\n".join([*self.story, text])

    def calm(self, command: str) -> None:
        """The command alone ends well."""
        begun = {"train": "small-*", "pretrain": f"{self._made().name}/*"}.get(command)
        if begun is not None and list(self.laboratory.output.glob(begun)):
            process = self.begin(self.words(command, "--resume"))
            text = self.end(process)
            if process.returncode == 0:
                return
            assert re.search("train without --resume first|begin it without", text), self.told(text)
        process = self.begin(self.words(command))
        text = self.end(process)
        assert process.returncode == 0, self.told(text)

    def disturbances(self) -> Iterator[tuple[Callable[[str], object], str]]:
        """What happens to which command: each kind before any comes again, mostly to those that write."""
        kinds = [self.killed, self.killed, self.twice, self.full_disk, self.full_disk, self.server]
        kinds += [self.moved, self.copied, self.no_folder, self.clock]
        kinds += [self.small_disk] if may_mount() else []
        while True:
            for kind in self.chance.sample(kinds, len(kinds)):
                reads = [] if kind in (self.server, self.no_folder) else READS
                weights = [4, 3, 2, 1.5, *[0.6] * len(reads)]
                writes = ["train", "eval", "sweep", "pretrain"]
                yield kind, self.chance.choices([*writes, *reads], weights)[0]

    def disturb(self, kind: Callable[[str], object], command: str) -> None:
        """One disturbance of one command, then the command alone, and a look at what is left."""
        self.story.append(f"# {kind.__name__}: {command}")
        self.made += command == "pretrain"
        kind(command)
        self.calm(command)
        self.look()

    def killed(self, command: str) -> None:
        process = self.begin(self.words(command))
        time.sleep(self.chance.uniform(0.1, 4.0))
        process.send_signal(self.chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        self.end(process)

    def twice(self, command: str) -> None:
        both = [self.begin(self.words(command)) for _ in range(2)]
        codes = []
        for process in both:
            self.end(process)
            codes.append(process.returncode)
        assert 0 in codes, self.told("")

    def full_disk(self, command: str) -> None:
        process = self.begin(self.words(command))
        size = self.chance.choice([0, 10_000, 300_000, 2_000_000])
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))
        self.end(process)

    def small_disk(self, command: str) -> None:
        """The runs on a disk of their own, which fills up."""
        words = self.words(command)
        self.story.append("opdlab " + " ".join(words))
        disk, output = self.laboratory.folder / "disk", self.laboratory.output
        disk.mkdir(exist_ok=True)
        spare = str(self.chance.choice([0, 16, 256, 1024]))
        outer = ["unshare", "--map-root-user", "--mount", "bash", "-c", ON_A_DISK, "bash"]
        inner = [sys.executable, "-c", "from opdlab.cli import main; main()", *words]
        done = subprocess.run(
            [*outer, str(disk), str(output), spare, *inner],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            env=self.environment,
        )
        text = done.stdout + done.stderr
        self.story.append(f"  {spare} KiB left, {done.returncode}: {text[-300:]}")
        assert "Traceback" not in text, self.told(text)

    def no_folder(self, command: str) -> None:
        process = self.begin(self.words(command, "output=/proc/none"))
        self.end(process)
        assert process.returncode == 1, self.told("")

    def moved(self, _: str) -> None:
        old = self.laboratory.output
        self.laboratory.output = old.rename(old.with_name(f"runs {self.chance.randrange(10**6)}"))
        self.left.append(old)

    def copied(self, _: str) -> None:
        old = self.laboratory.output
        new = old.with_name(f"copy {self.chance.randrange(10**6)}")
        self.laboratory.output = Path(shutil.copytree(old, new))
        shutil.rmtree(old)
        self.left.append(old)

    def clock(self, _: str) -> None:
        """Everything is from tomorrow, as if the clock had been set back."""
        tomorrow = time.time() + 86_400
        for path in self.laboratory.output.rglob("*"):
            os.utime(path, (tomorrow, tomorrow))

    def server(self, command: str) -> None:
        """A tracking server that answers once, then dies, refuses or hangs."""
        with bad_server(self.chance.choice(["dies", "refuses", "hangs"])) as uri:
            self.end(self.begin(self.words(command, f"tracking.uri={uri}")))

    def look(self) -> None:
        """Nothing is lost, mixed or written elsewhere."""
        assert self.notes.read_text() == "somebody else's"
        assert sorted(self.notes.parent.iterdir()) == [self.notes]
        assert not any(self.outside.iterdir()), self.told("written elsewhere")
        for place in self.left:
            assert not place.exists(), self.told(f"written to {place}")
        for group in self.laboratory.output.glob("small-[0-9]*"):
            if (group / "lgr" / "model" / "config.json").exists():
                steps = [
                    r["step"] for r in self.laboratory.metrics("lgr", group.name) if "loss" in r
                ]
                assert steps == list(range(1, STEPS + 1)), self.told(f"{group.name}: {steps}")
        for model in self.laboratory.output.glob("made-*/student/model"):
            assert (model / "README.md").read_text(), self.told(f"{model} is not whole")
        open_client(f"sqlite:///{self.laboratory.output / 'mlflow.db'}")

    def blow(self, rounds: int, until: float = float("inf")) -> None:
        """Disturb commands, one after the other."""
        home = Path.cwd()
        os.chdir(self.outside)
        try:
            for command in ("train", "eval"):
                self.calm(command)
            for kind, command in islice(self.disturbances(), rounds):
                if time.monotonic() > until:
                    return
                self.disturb(kind, command)
        finally:
            os.chdir(home)


ON_A_DISK = """set -e; disk=$1 runs=$2 spare=$3; shift 3
mount -t tmpfs -o size=512m tmpfs "$disk"
cp -a "$runs/." "$disk"
used=$(df --output=used -k "$disk" | tail -1)
mount -o "remount,size=$((used + spare))k" "$disk"
mount --bind "$disk" "$runs"
code=0; "$@" || code=$?
umount "$runs"
find "$runs" -mindepth 1 -delete
cp -a "$disk/." "$runs"
exit $code"""
"""Runs a command while the folder of runs lies on a disk with little space left."""


def may_mount() -> bool:
    """Whether this user may mount a disk where nobody else sees it."""
    words = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return (
        bool(shutil.which("unshare")) and not subprocess.run(words, capture_output=True).returncode
    )


@contextlib.contextmanager
def bad_server(how: str) -> Iterator[str]:
    """A server that is healthy, and then is not."""
    gone = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/health":
                if how == "hangs":
                    gone.wait(LIMIT_S)
                if how == "dies":
                    self.connection.close()
                    return
            self.send_response(200 if self.path == "/health" else 403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        gone.set()
        server.shutdown()
        server.server_close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=30)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        open_client(f"sqlite:///{place / 'store' / 'mlflow.db'}")
        weather = Weather(place, place / "store" / "mlflow.db", chosen.seed)
        try:
            weather.blow(10**6, time.monotonic() + 60 * chosen.minutes)
        finally:
            print("\n".join(weather.story))


if __name__ == "__main__":
    main()

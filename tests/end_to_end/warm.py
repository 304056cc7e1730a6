"""Programs in processes that need not import anything, which takes longer than most tests.

Run as a script this is a process that has imported everything and forks the programs that it is asked
for. Each has its own memory, signals and files, as one begun afresh has.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import pkgutil
import selectors
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

from opdlab.plugins.registry import forget

PACKAGES = ("opdlab", "opdlab_evaluators", "opdlab_dashboards")
"""All their modules are imported."""
USED = (
    "datasets",
    "git",
    "IPython.display",
    "lightning",
    "mlflow.pyfunc",
    "mlflow.server.fastapi_app",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.tracing.processor.mlflow_v3",
    "optuna",
    "sqlalchemy.dialects.sqlite",
    "torch.distributed.tensor",
    "torch._dynamo",
    "transformers.cli.transformers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.trainer_pt_utils",
    "uvicorn",
)
"""What commands import later on."""
LATE = {
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
    "MLFLOW_HTTP_REQUEST_TIMEOUT",
    "COLUMNS",
    "PYTEST_CURRENT_TEST",
    "PYTHONPATH",
    "PYTORCH_NVML_BASED_CUDA_CHECK",
    "TORCHINDUCTOR_CACHE_DIR",
    "_MLFLOW_TELEMETRY_SESSION_ID",
}
"""Variables of the environment that nothing here reads while it is imported; some are set by imports.

Folders of PYTHONPATH are searched by the command; they may not hold what is imported already.
"""

BEGUN = dict(os.environ)
"""The environment before any test; one of a test, which changes some of it, would fit no other test."""


class Command:
    """A running command, as `subprocess.Popen` would show it; its output and its errors are one text."""

    def __init__(self, process: socket.socket, output: int) -> None:
        self._process = process
        self.pid = int.from_bytes(_exactly(process, 4), "little")
        self.stdout = os.fdopen(output, encoding="utf-8", errors="replace")
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, or none while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code; minus the number of the signal that ended it."""
        if self.returncode is None:
            self._process.settimeout(timeout)
            try:
                status = int.from_bytes(_exactly(self._process, 4), "little")
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("opdlab", timeout or 0) from None
            self._process.close()
            self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """What it printed, when it has ended."""
        found: list[str] = []
        if self.stdout.closed:
            return "", None
        reader = threading.Thread(target=lambda: found.append(self.stdout.read()), daemon=True)
        reader.start()
        reader.join(timeout)
        if reader.is_alive():
            raise subprocess.TimeoutExpired("opdlab", timeout or 0)
        self.stdout.close()
        self.wait(timeout)
        return found[0], None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Warm:
    """Starts commands from a process that has imported everything."""

    def __init__(self) -> None:
        self.environment = _environment(BEGUN)
        self._near, far = socket.socketpair()
        with far:
            self._server = subprocess.Popen(
                [sys.executable, __file__, str(far.fileno())],
                env=BEGUN,
                pass_fds=[far.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def serves(self, environment: Mapping[str, str]) -> bool:
        """Whether a command begun afresh in this environment would import the same."""
        return self.environment == _environment(environment)

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        program: str = "opdlab.cli:main",
        folder: Path | None = None,
    ) -> Command:
        """Begin a program, by its module and function, in a folder or here."""
        near, far = socket.socketpair()
        output, printed = os.pipe()
        place = str(folder or Path.cwd())
        order = json.dumps([place, dict(environment), program, *arguments]).encode()
        head = len(order).to_bytes(4, "little")
        with far:
            socket.send_fds(self._near, [head], [printed, far.fileno()])
            self._near.sendall(order)
        os.close(printed)
        return Command(near, output)


@cache
def warm() -> Warm:
    """The one of this process."""
    return Warm()


def start(
    *arguments: str | Path, environment: Mapping[str, str] = os.environ
) -> Command | subprocess.Popen[str]:
    """Begin `opdlab` with these arguments, here."""
    if warm().serves(environment):
        return warm().start([*map(str, arguments)], environment)
    command = [sys.executable, "-c", "from opdlab.cli import main; main()", *map(str, arguments)]
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=both, text=True)


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in LATE}


def _exactly(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        piece = connection.recv(count - len(found))
        if not piece:
            raise EOFError("the process that starts commands has ended")
        found += piece
    return found


def serve(orders: socket.socket) -> list[str] | None:
    """Fork a process per order; in each of these, return its program and arguments."""
    running: dict[int, tuple[int, socket.socket]] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(orders, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd in running:
                    pid, report = running.pop(key.fd)
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    status = os.waitpid(pid, 0)[1]
                    with report:
                        report.sendall(status.to_bytes(4, "little"))
                    continue
                head, descriptors, *_ = socket.recv_fds(orders, 4, 2)
                if not head:
                    return None
                folder, environment, *arguments = json.loads(
                    _exactly(orders, int.from_bytes(head, "little"))
                )
                printed, report = descriptors[0], socket.socket(fileno=descriptors[1])
                pid = os.fork()
                if pid == 0:
                    os.dup2(printed, 1)
                    os.dup2(printed, 2)
                    os.close(printed)
                    for one in (orders, report, *(r for _, r in running.values())):
                        one.close()
                    for one in running:
                        os.close(one)
                    os.chdir(folder)
                    os.environ.clear()
                    os.environ.update(environment)
                    places = [p for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p]
                    if new := [place for place in places if place not in sys.path]:
                        sys.path[1:1] = new
                        forget()
                    return arguments
                os.close(printed)
                report.sendall(pid.to_bytes(4, "little"))
                child = os.pidfd_open(pid)
                running[child] = (pid, report)
                selector.register(child, selectors.EVENT_READ)


def run(command: Callable[[], None]) -> None:
    """Run a command and end this process without taking its modules down, which would copy them all."""
    code: object = 0
    try:
        command()
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def import_everything() -> None:
    for package in map(import_module, PACKAGES):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            try:
                import_module(module.name)
            except ModuleNotFoundError as error:
                # Kernels need a GPU's own package, which commands without a GPU do without.
                if error.name != "triton":
                    raise
    for name in USED:
        import_module(name)


if __name__ == "__main__":
    import_everything()
    # Memory that a collection does not look at stays shared.
    gc.freeze()
    chosen = serve(socket.socket(fileno=int(sys.argv[1])))
    if chosen is not None:
        program, *arguments = chosen
        module, _, function = program.partition(":")
        if module != "opdlab.cli":
            # Nobody reads what a server prints, and a full pipe would hold it up.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
        # Lightning begins other processes by the command that began this one.
        sys.argv = [str(Path(sys.executable).with_name(module.partition(".")[0])), *arguments]
        run(getattr(import_module(module), function))

"""An empty MLflow store in an SQLite file, whole or not there."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from filelock import FileLock

from opdlab.files import write_whole


def make_store(file: Path, home: str, tag: str) -> None:
    """Make a store where there is none; one command at a time, and another then finds it whole.

    MLflow makes one by running all its migrations, which takes ten seconds and leaves a store that cannot
    be used where it is killed. So that happens once for each version of MLflow, beside a cache; other
    stores are copies of that empty one.

    Args:
        home: where its first experiment keeps its files; `tag` says so.

    Raises:
        OSError: it cannot be written.
    """
    if _exists(file):
        return
    with FileLock(file.with_name(f".{file.name}.lock")):
        if _exists(file):
            return
        for left_behind in file.parent.glob(f".{file.name}.new*"):
            left_behind.unlink()
        new = file.with_name(f".{file.name}.new")
        if not _copied(_cache(), new):
            _make(new)
            # A cache is a convenience.
            with suppress(OSError):
                _cache().parent.mkdir(parents=True, exist_ok=True)
                write_whole(_cache(), new.read_bytes())
        with closing(sqlite3.connect(new)) as store, store:
            store.execute("UPDATE experiments SET artifact_location = ?", (home,))
            store.execute(
                "INSERT INTO experiment_tags (key, value, experiment_id) VALUES (?, 'yes', 0)",
                (tag,),
            )
        with new.open("rb") as whole:
            os.fsync(whole.fileno())
        new.rename(file)


def _exists(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def _cache() -> Path:
    """Where the empty store of the installed version is kept."""
    import mlflow
    import mlflow.store

    folder = Path(mlflow.store.__path__[0]) / "db_migrations" / "versions"
    names = "\n".join(sorted(path.name for path in folder.glob("*.py")))
    schema = hashlib.sha256(names.encode()).hexdigest()[:12]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "opdlab" / f"mlflow-{mlflow.__version__}-{schema}.db"


def _copied(source: Path, new: Path) -> bool:
    """Whether there is a sound empty store, copied to `new`."""
    try:
        shutil.copyfile(source, new)
        with closing(sqlite3.connect(new)) as store:
            sound = store.execute("PRAGMA quick_check").fetchall() == [("ok",)]
            tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master")}
            runs = store.execute("SELECT count(*) FROM runs").fetchone()[0]
        if sound and runs == 0 and {"alembic_version", "experiments"} <= tables:
            return True
    except (OSError, sqlite3.Error):
        pass
    new.unlink(missing_ok=True)
    return False


def _make(new: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{new}", "./mlruns")
    store.engine.dispose()

"""What opdlab writes over or removes is its own; everything else stays as it was."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pytest
from run_folders import draws, write_run

from opdlab.bench import race
from opdlab.errors import DataError
from opdlab.files.marked import GENERATOR, write_beside, write_page
from opdlab_dashboards.pages import own_files
from opdlab_dashboards.pages.leaderboard import leaderboard
from opdlab_dashboards.pages.own_files import LOCK, MARK, write_folder
from opdlab_dashboards.pages.report import report
from opdlab_dashboards.pages.samples import samples


def files(place: Path) -> dict[str, str]:
    found = (path for path in place.rglob("*") if path.is_file() and path.name != LOCK)
    return {path.relative_to(place).as_posix(): path.read_text() for path in found}


def write(place: Path, **content: str) -> None:
    write_folder(place, {name: lambda text=text: text for name, text in content.items()})


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_run(tmp_path / "runs" / "try-001" / "opd", {"math/short": draws(0.8)})
    return tmp_path / "runs"


def test_a_folder_with_files_of_others_is_refused_before_anything_is_read(
    tmp_path: Path, runs: Path
) -> None:
    place = tmp_path / "project"
    (place / "data").mkdir(parents=True)
    (place / "data" / "prompts.jsonl").write_text("mine")
    with pytest.raises(DataError, match="holds data and no file that opdlab wrote"):
        leaderboard([str(runs)], str(place), [])
    with pytest.raises(DataError, match="is a file"):
        leaderboard([str(runs)], str(place / "data" / "prompts.jsonl"), [])
    assert files(place) == {"data/prompts.jsonl": "mine"}


def test_a_leaderboard_written_again_leaves_what_a_user_put_beside_it(
    tmp_path: Path, runs: Path
) -> None:
    place = tmp_path / "site"
    leaderboard([str(runs)], str(place), [])
    write_run(runs / "try-001" / "lgr", {"math/short": draws(0.9)}, method={"type": "lgr"})
    leaderboard([str(runs)], str(place), [])
    assert (place / "data" / "0" / "1-0.js").exists()
    (place / "data" / "prompts.jsonl").write_text("mine")
    for path in (runs / "try-001" / "lgr").rglob("*.parquet"):
        path.unlink()
    leaderboard([str(runs)], str(place), [])
    assert not (place / "data" / "0" / "1-0.js").exists()
    assert (place / "data" / "prompts.jsonl").read_text() == "mine"


def test_files_of_earlier_are_removed_and_no_others(tmp_path: Path) -> None:
    place = tmp_path / "place"
    write(place, **{"a.md": "1", "data/0/b.js": "2", "data/1/c.js": "3"})
    (place / "data" / "0" / "own.txt").write_text("mine")
    write(place, **{"a.md": "4"})
    left = files(place)
    assert left.pop(MARK)
    assert left == {"a.md": "4", "data/0/own.txt": "mine"}
    assert not (place / "data" / "1").exists()


def test_a_file_of_another_in_the_way_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    place = tmp_path / "place"
    write(place, **{"a.md": "1"})
    (place / "b.md").write_text("mine")
    with pytest.raises(DataError, match=r"b\.md was not written by opdlab"):
        write(place, **{"a.md": "2", "b.md": "2"})
    left = files(place)
    assert (left["a.md"], left["b.md"]) == ("1", "mine")


def test_what_a_killed_command_left_is_written_over(tmp_path: Path) -> None:
    def die() -> str:
        raise KeyboardInterrupt

    place = tmp_path / "place"
    with pytest.raises(KeyboardInterrupt):
        write_folder(place, {"a.md": lambda: "1", "b.md": die})
    write(place, **{"a.md": "2", "b.md": "2"})
    assert (place / "b.md").read_text() == "2"


def test_of_two_commands_that_write_one_folder_together_the_later_has_all_of_it(
    tmp_path: Path,
) -> None:
    place = tmp_path / "place"
    later = threading.Thread(target=lambda: write(place, **{"a.md": "2", "c.md": "2"}))

    def meet() -> str:
        later.start()
        later.join(0.3)  # it ends before this one goes on, if nothing holds it
        return "1"

    write_folder(place, {"a.md": lambda: "1", "b.md": meet})
    later.join()
    left = files(place)
    assert sorted(json.loads(left.pop(MARK))["files"]) == sorted(left)
    assert left == {"a.md": "2", "c.md": "2"}


def test_a_mark_that_names_files_elsewhere_removes_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "place").mkdir()
    absolute = str(tmp_path / "mine.txt")
    digest = sha256(b"mine").hexdigest()
    names = ["../mine.txt", absolute, "not-there", ".", ""]
    told = json.dumps({"files": dict.fromkeys(names, digest), "begun": names})
    (tmp_path / "place" / MARK).write_text(told)
    write(tmp_path / "place", **{"a.md": "1"})
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_mark_that_a_killed_command_had_not_written_whole_makes_no_folder_anothers(
    tmp_path: Path,
) -> None:
    (tmp_path / f".{MARK}.0123abcd.partial").write_text("{")
    write(tmp_path, **{"a.md": "1"})
    assert (tmp_path / "a.md").read_text() == "1"


def test_a_file_that_a_user_changed_is_the_users(tmp_path: Path) -> None:
    place = tmp_path / "place"
    write(place, **{"a.md": "1", "data/b.js": "1", "data/c.js": "1"})
    (place / "data" / "b.js").write_text("mine")
    write(place, **{"a.md": "2"})
    assert (place / "data" / "b.js").read_text() == "mine"
    assert not (place / "data" / "c.js").exists()
    (place / "a.md").write_text("mine")
    with pytest.raises(DataError, match=r"a\.md was not written by opdlab, or changed since"):
        write(place, **{"a.md": "3"})
    assert (place / "a.md").read_text() == "mine"


def test_a_mark_that_was_copied_makes_nothing_of_others_opdlabs_own(tmp_path: Path) -> None:
    write(tmp_path / "place", **{"index.html": "1", "data/a.js": "1"})
    others = tmp_path / "others"
    (others / "data").mkdir(parents=True)
    (others / MARK).write_text((tmp_path / "place" / MARK).read_text())
    (others / "data" / "a.js").write_text("mine")
    write(others, **{"index.html": "2"})
    assert (others / "data" / "a.js").read_text() == "mine"


@pytest.mark.parametrize("name", ["data", "data/a.js"])
def test_nothing_is_written_through_a_link_into_another_folder(tmp_path: Path, name: str) -> None:
    place, others = tmp_path / "place", tmp_path / "others"
    write(place, **{"data/a.js": "1"})
    (place / "data" / "a.js").unlink()
    others.mkdir()
    if name == "data":
        (place / "data").rmdir()
    (place / name).symlink_to(others if name == "data" else others / "a.js")
    with pytest.raises(DataError, match="leads out of the folder by a link"):
        write(place, **{"data/a.js": "2"})
    assert not any(others.iterdir())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": 3}', '{"files": ["a.md"]}'])
def test_a_damaged_mark_is_named_with_the_remedy(tmp_path: Path, content: str) -> None:
    write(tmp_path, **{"a.md": "1"})
    (tmp_path / MARK).write_text(content)
    with pytest.raises(DataError, match=r"is damaged.*if nothing in .* is yours, remove it"):
        write(tmp_path, **{"a.md": "2"})


def test_a_pipe_is_no_page(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is a device or a pipe"):
        write_page(tmp_path / "pipe", "")


def test_figures_of_a_benchmark_are_written_over_their_own_alone(tmp_path: Path) -> None:
    for name, content in [("own.yaml", "a: 1"), ("rows.jsonl", '{"a": 1}'), ("list.json", "[]")]:
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=f"{name} was not written by"):
            race.write(str(tmp_path / name), {"tables": []})
        assert (tmp_path / name).read_text() == content
    for _ in range(2):
        race.write(str(tmp_path / "new" / "figures.json"), {"tables": [1]})
    assert json.loads((tmp_path / "new" / "figures.json").read_text())["tables"] == [1]


@pytest.mark.parametrize("command", [report, samples])
def test_pages_are_written_over_pages_alone(tmp_path: Path, runs: Path, command) -> None:
    page = tmp_path / "notes.html"
    page.write_text("<html>mine</html>")
    run = [str(runs / "try-001" / "opd")]
    with pytest.raises(DataError, match=r"notes\.html was not written by opdlab"):
        command(run, str(runs), str(page))
    assert page.read_text() == "<html>mine</html>"
    with pytest.raises(DataError, match="is a folder"):
        command(run, str(runs), str(tmp_path))
    page.unlink()
    for _ in range(2):
        command(run, str(runs), str(page))
    assert "</html>" in page.read_text()
    write_page(page, page.read_text())


def test_a_page_that_another_replaces_is_kept_beside_it(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    first, second = (f"<head>{GENERATOR}</head>{text}" for text in ("first", "second"))
    assert write_beside(page, first) is None
    os.utime(page, (1_800_000_000, 1_800_000_000))
    older = write_beside(page, second)
    assert older == tmp_path / "report-20270115-080000.html"
    assert (older.read_text(), page.read_text()) == (first, second)
    assert write_beside(page, second) is None


def test_pages_of_one_second_are_all_kept_also_of_several_processes(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    begin, wait = os.pipe()[::-1]
    children = []
    for number in range(4):
        if (child := os.fork()) == 0:
            os.close(begin)
            os.read(wait, 1)  # until the test lets all begin
            for n in range(5):
                write_beside(page, f"{number} {n}")
            os._exit(0)
        children.append(child)
    os.close(begin)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert len({path.read_text() for path in tmp_path.iterdir()}) == 20


def test_an_earlier_leaderboard_is_kept_whole_beside_the_new_one(tmp_path: Path) -> None:
    place = tmp_path / "board"
    first = {
        "index.html": lambda: "one",
        "data/0/a.js": lambda: "same",
        "data/0/b.js": lambda: "gone",
    }
    assert write_folder(place, first) is None
    assert write_folder(place, first) is None, "all are the same"
    (place / "CNAME").write_text("mine")
    os.utime(place / MARK, (1_800_000_000, 1_800_000_000))
    second = {"index.html": lambda: "two", "data/0/a.js": lambda: "same"}
    older = write_folder(place, second)
    assert older == tmp_path / "board-20270115-080000"
    kept = {str(path.relative_to(older)) for path in older.rglob("*") if path.is_file()}
    assert kept == {*first, MARK}
    assert [(older / name).read_text() for name in first] == ["one", "same", "gone"]
    assert (place / "index.html").read_text() == "two"
    assert {path.name for path in tmp_path.iterdir()} == {"board", older.name}


def test_each_file_is_hashed_a_few_times_however_many_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[bytes] = []
    sha256_of = own_files._sha256
    monkeypatch.setattr(own_files, "_sha256", lambda it: hashed.append(it) or sha256_of(it))
    for text in ("one", "two"):
        hashed.clear()
        write(tmp_path / "board", **{f"{n}.js": text for n in range(8)})
    # Of the earlier files: that nobody changed them, and which of them are kept.
    assert Counter(hashed) == {b"one": 16, b"two": 8}


def test_what_a_killed_command_half_replaced_is_not_kept_for_an_earlier_leaderboard(
    tmp_path: Path,
) -> None:
    place = tmp_path / "board"
    write_folder(place, {"a.js": lambda: "one", "b.js": lambda: "one"})
    two = {"a.js": lambda: "two", "b.js": lambda: "two"}
    with pytest.raises(KeyboardInterrupt):
        write_folder(place, two | {"b.js": interrupted})
    assert write_folder(place, two) is None
    (older,) = (path for path in tmp_path.iterdir() if path != place)
    assert {(older / name).read_text() for name in two} == {"one"}


def interrupted() -> str:
    raise KeyboardInterrupt

"""Folders in which a model is made: of those that were left behind the next one clears what nobody works in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from convq.repository.workshop import workshop

WORK = """
import sys
from pathlib import Path
from convq.repository.workshop import workshop
with workshop(Path(sys.argv[1]), ".adding-") as folder:
    (folder / "mine").mkdir()
    print(folder, flush=True)
    sys.stdin.read()
"""


@contextmanager
def worker(root: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process that works in a folder of its own."""
    command = [sys.executable, "-c", WORK, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_a_folder_is_there_as_long_as_it_takes(tmp_path: Path) -> None:
    with workshop(tmp_path / "models", ".adding-") as folder:
        (folder / "lenet").mkdir()
        assert tmp_path / "models" == folder.parent

    assert [] == list((tmp_path / "models").iterdir())


def test_what_a_killed_process_has_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    with worker(tmp_path) as (process, left):
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (left / "mine").is_dir()

        with workshop(tmp_path, ".adding-") as folder:
            assert [folder] == list(tmp_path.iterdir())


def test_the_folder_of_one_that_works_is_left_alone(tmp_path: Path) -> None:
    with worker(tmp_path) as (_, theirs), workshop(tmp_path, ".adding-") as mine:
        assert {theirs, mine} == set(tmp_path.iterdir())
        assert (theirs / "mine").is_dir()


def test_nothing_else_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "models" / "lenet").mkdir(parents=True)
    (tmp_path / "models" / ".adding-file").touch()
    (tmp_path / "models" / ".adding-link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "models" / ".export-old").mkdir()
    before = set((tmp_path / "models").iterdir())

    with workshop(tmp_path / "models", ".adding-"):
        pass

    assert before == set((tmp_path / "models").iterdir())
    assert (tmp_path / "elsewhere").is_dir()


def test_many_that_begin_at_once_all_keep_their_folder(tmp_path: Path) -> None:
    together = "import sys, pathlib\nfrom convq.repository.workshop import workshop\n"
    together += "for _ in range(20):\n with workshop(pathlib.Path(sys.argv[1]), '.adding-') as f:\n"
    together += "  (f / 'x').touch()\n  assert (f / 'x').exists()\n"
    command = [sys.executable, "-c", together, str(tmp_path)]
    all_of_them = [subprocess.Popen(command, env=os.environ) for _ in range(4)]

    assert [0] * 4 == [process.wait() for process in all_of_them]
    assert [] == list(tmp_path.iterdir())

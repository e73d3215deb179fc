"""The back-up of deploy/README.md: a copy of a running server's append-only folder is a server again."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import redis

from servers import OwnServer, wait_until

STREAM = "convq:{lenet}:jobs"


def test_a_copy_of_the_append_only_folder_of_a_busy_server_holds_what_was_written_before(tmp_path: Path) -> None:
    over = threading.Event()

    def push(url: str) -> None:
        with redis.Redis.from_url(url) as connection:
            while not over.is_set():
                connection.xadd(STREAM, {"image": b"later" * 1000})

    with OwnServer(tmp_path / "served", appendfsync="always") as server, redis.Redis.from_url(server.url) as connection:
        before = [connection.xadd(STREAM, {"image": b"before"}) for _ in range(100)]
        connection.config_set("auto-aof-rewrite-percentage", 0)
        wait_until(lambda: connection.info("persistence")["aof_rewrite_in_progress"] == 0)
        load = threading.Thread(target=push, args=(server.url,))
        load.start()
        shutil.copytree(tmp_path / "served" / "appendonlydir", tmp_path / "restored" / "appendonlydir")
        over.set()
        load.join()

    with OwnServer(tmp_path / "restored") as server, redis.Redis.from_url(server.url) as connection:
        assert before == [entry for entry, _ in connection.xrange(STREAM, count=100)]

"""service/clients/convq.mjs, as copied by a stranger: driven by tests/e2e/node/drive.mjs, against real servers and services."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import redis
from guarded import Certificates, guarded_server, password_of, tls_server

from convq.queue.functions import SOURCE
from servers import PATIENCE, OwnServer, binary_of, skip_or_fail, wait_until
from services import JOBS, LANES, SAMPLE, Plain, RunningService, digits, tensor_of

ROOT = Path(__file__).parents[2]
NODE = Path(__file__).parent / "node"
CLIENTS = ROOT / "service" / "clients"
SEVEN = str(SAMPLE / "seven.png")
LONG = {"timeoutMs": 60_000 * PATIENCE}


class NodeClient:
    """The client in a process of its own: calls go in by number, and what they ended with comes out, in any order."""

    def __init__(self, folder: Path, url: str, **options: Any) -> None:
        command = ["node", "drive.mjs", url, json.dumps({"model": "lenet", **options})]
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.ended: dict[int, dict[str, Any]] = {}
        self._called = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                said = json.loads(line)
                self.ended[said["n"]] = said

    def begin(self, call: str, file: str | None = None, /, **given: Any) -> int:
        """Start a call; its number."""
        self._called += 1
        line = {"n": self._called, "call": call, **({} if file is None else {"file": file}), **given}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        return self._called

    def end(self, number: int) -> dict[str, Any]:
        """What that call ended with, waiting for it; 0 is the connection."""
        wait_until(lambda: number in self.ended, 60)
        return self.ended[number]

    def call(self, call: str, file: str | None = None, /, **given: Any) -> Any:
        """The value of a call."""
        ended = self.end(self.begin(call, file, **given))
        assert "value" in ended, ended
        return ended["value"]

    def error(self, call: str, file: str | None = None, /, **given: Any) -> dict[str, Any]:
        """The error of a call."""
        ended = self.end(self.begin(call, file, **given))
        assert "error" in ended, ended
        error: dict[str, Any] = ended["error"]
        return error

    def finish(self) -> tuple[int, str]:
        """End of input, on which the client is closed: exit status and what it wrote to standard error."""
        assert self.process.stdin is not None
        assert self.process.stderr is not None
        self.process.stdin.close()
        status = self.process.wait(30 * PATIENCE)
        self._reader.join()
        with self.process.stderr:
            return status, self.process.stderr.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.process.kill()
            self.finish()
        else:
            assert (0, "") == self.finish()


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the client, its one dependency of the newest version, and the program that drives it."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        skip_or_fail("no node and npm on PATH")
    copy = tmp_path_factory.mktemp("node") / "app"
    shutil.copytree(NODE, copy, ignore=shutil.ignore_patterns("node_modules"))
    shutil.copy(CLIENTS / "convq.mjs", copy)
    subprocess.run(["npm", "ci", "--silent"], cwd=copy, check=True, capture_output=True, timeout=250)
    return copy


@pytest.fixture(params=["redis-4", "redis-5"])
def older(copied: Path, request: pytest.FixtureRequest) -> Callable[..., NodeClient]:
    """As `start`, with an older version of the package."""
    folder = copied / request.param
    folder.mkdir(exist_ok=True)
    client = (copied / "convq.mjs").read_text()
    assert 1 == client.count('from "redis"')
    (folder / "convq.mjs").write_text(client.replace('from "redis"', f'from "{request.param}"'))
    shutil.copy(copied / "drive.mjs", folder)
    return lambda url, **options: NodeClient(folder, url, **options)


@pytest.fixture
def start(copied: Path) -> Callable[..., NodeClient]:
    """Starts the client with that URL and these options."""
    return lambda url, **options: NodeClient(copied, url, **options)


@pytest.fixture
def node(start: Callable[..., NodeClient], service_server: OwnServer, plain: Plain) -> Iterator[NodeClient]:
    """A client of the session's service; afterwards nothing may be left in its queue."""
    with start(service_server.url) as client:
        yield client
    wait_until(plain.nothing_left)


def waiting_in(url: str) -> int:
    """Jobs in the queue of lenet."""
    with redis.Redis.from_url(url) as connection:
        return sum(int(connection.xlen(lane)) for lane in LANES)


def withdrawn(url: str) -> set[str]:
    """Ids of the jobs that were withdrawn."""
    with redis.Redis.from_url(url, decode_responses=True) as connection:
        return set(connection.smembers("convq:{lenet}:cancelled"))


# -- answers ----------------------------------------------------------------------------------------------------------------


def test_a_digit_is_classified_and_the_options_are_obeyed(node: NodeClient) -> None:
    result = node.call(
        "classify", SEVEN, options={"topK": 2, "priority": "high", "outputs": ["conv1"], "ttlMs": 60_000}
    )

    assert ["7", 2] == [result["predictions"][0]["label"], len(result["predictions"])]
    assert ["conv1"] == [one["name"] for one in result["outputs"]]


def test_an_own_id_is_the_id_of_the_result(node: NodeClient) -> None:
    own = uuid.uuid4().hex
    job = node.call("submit", SEVEN, options={"id": own})

    assert own == job
    assert "7" == node.call("result", args=[job])["predictions"][0]["label"]


def test_a_tensor_gets_the_answer_of_the_image_that_it_is(node: NodeClient) -> None:
    seven = node.call("classify", tensor=list(tensor_of(digits()[0])), shape=[1, 32, 32])
    floats = node.error("classify", tensor=[0.5] * 1024, shape=[1, 32, 32], dtype="float32")

    assert "7" == seven["predictions"][0]["label"]
    assert ("bad_tensor", True) == (floats["code"], "float32" in floats["message"])


def test_a_job_travels_as_the_fields_of_the_protocol(start: Callable[..., NodeClient], fresh_server: OwnServer) -> None:
    options = {"id": "a.b", "ttlMs": 5, "topK": 3, "version": 2, "outputs": ["x", "y"], "priority": "low"}
    options |= {"minScore": 0.25, "iou": 1, "maxDetections": 20, "labels": ["a", "b"], "format": ["png"]}
    with start(fresh_server.url) as node, redis.Redis.from_url(fresh_server.url) as connection:
        node.call("submit", tensor=[0.5, -1.0], shape=[1, 2], dtype="float32", options=options)
        ((_, fields),) = connection.xrange(LANES[2])

    assert fields.pop(b"reply_to").startswith(b"convq:{lenet}:inbox:node-")
    assert {
        b"id": b"a.b",
        b"tensor": struct.pack("<2f", 0.5, -1.0),
        b"dtype": b"float32",
        b"shape": b"1,2",
        b"ttl_ms": b"5",
        b"top_k": b"3",
        b"version": b"2",
        b"outputs": b"x,y",
        b"min_score": b"0.25",
        b"iou": b"1",
        b"max_detections": b"20",
        b"labels": b"a,b",
        b"format": b"png",
    } == fields


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"file": str(ROOT / "README.md")}, "bad_image"),
        ({"file": SEVEN, "options": {"version": 99}}, "unknown_version"),
        ({"file": SEVEN, "options": {"outputs": ["conv9"]}}, "unknown_output"),
        ({"file": SEVEN, "options": {"ttlMs": 0}}, "expired"),
        ({"file": "/nowhere/7.png"}, "ENOENT"),
    ],
)
def test_what_goes_wrong_is_an_error_with_a_code(node: NodeClient, given: dict[str, Any], code: str) -> None:
    neighbour = node.begin("classify", SEVEN)

    assert code == node.error("classify", **given)["code"]
    assert "7" == node.end(neighbour)["value"]["predictions"][0]["label"]


def test_no_answer_in_time_is_an_error_with_a_code(start: Callable[..., NodeClient], fresh_server: OwnServer) -> None:
    with start(fresh_server.url) as node:
        assert "timeout" == node.error("classify", SEVEN, options={"timeoutMs": 0})["code"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ttl": 5}, "no such option: ttl"),
        ({"priority": "urgent"}, "high, normal or low"),
        ({"id": "a b"}, "id is 1 to 64"),
        ({"id": ""}, "id is 1 to 64"),
        ({"topK": -1}, "topK is a whole number (no text) from 1 to 2147483647, not -1"),
        ({"topK": 0}, "from 1 to"),
        ({"topK": "3"}, 'from 1 to 2147483647, not "3"'),
        ({"version": 0}, "version is a whole number (no text) from 1"),
        ({"ttlMs": "5"}, "ttlMs is a whole number (no text) from 0"),
        ({"timeoutMs": 1.5}, "timeoutMs is a whole number"),
        ({"outputs": "conv1"}, 'outputs is a list of names like ["conv1"], not "conv1"'),
        ({"outputs": []}, "outputs is a list"),
        ({"labels": "dog"}, 'labels is a list of names like ["person"], not "dog"'),
        ({"minScore": 1.5}, "minScore is a number from 0 to 1, not 1.5"),
        ({"iou": "0.5"}, 'iou is a number from 0 to 1, not "0.5"'),
        ({"outputs": [1]}, "outputs is a list"),
        ({"traceparent": 5}, "traceparent is a text, not 5"),
        ({"signal": True}, "AbortSignal"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused_before_anything_is_sent(
    node: NodeClient, options: dict[str, Any], said: str
) -> None:
    error = node.error("classify", SEVEN, options=options)

    assert ("TypeError", True) == (error["kind"], said in error["message"]), error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (None, "model is needed"),
        ([], "the options are an object"),
        ("lenet", "the options are an object"),
        ({"Model": "lenet"}, "Model"),
    ],
)
def test_connecting_with_options_that_are_none_says_what_is_wrong(copied: Path, options: Any, said: str) -> None:
    given = "" if options is None else f", {json.dumps(options)}"
    program = f'import {{ Convq }} from "./convq.mjs"; Convq.connect("redis://127.0.0.1:1"{given}).catch((e) => console.log(`${{e}}`));'
    done = subprocess.run(
        ["node", "--input-type=module", "-e", program],
        cwd=copied,
        capture_output=True,
        text=True,
        check=True,
        timeout=250,
    )

    assert done.stdout.startswith("TypeError: ")
    assert said in done.stdout
    assert "estructur" not in done.stdout


def test_the_client_runs_with_older_versions_of_its_package_too(
    older: Callable[..., NodeClient], tmp_path: Path
) -> None:
    """What a version may change: connecting, shapes of replies, errors, breaks, timeouts, the end."""
    with guarded_server(binary_of("redis-server"), tmp_path) as guarded:
        url = guarded.url("producer")
        with redis.Redis.from_url(guarded.url("admin"), decode_responses=True) as admin, older(url) as node:
            admin.acl_log_reset()
            with RunningService(guarded.url("worker")):
                assert "7" == node.call("classify", SEVEN, options={"outputs": ["conv1"]})["predictions"][0]["label"]
                assert ["lenet"] == node.call("served")
                admin.client_kill_filter(_type="normal", user="producer")
                assert "7" == node.call("classify", SEVEN)["predictions"][0]["label"]
                many = [node.begin("classify", SEVEN, options=LONG) for _ in range(50)]
                admin.client_kill_filter(_type="normal", user="producer")
                assert ["7"] * 50 == [node.end(number)["value"]["predictions"][0]["label"] for number in many]
                assert "bad_image" == node.error("classify", str(ROOT / "README.md"))["code"]
                node.call("cancel", args=["withdrawn"])
                assert "cancelled" == node.error("classify", SEVEN, options={"id": "withdrawn"})["code"]
                assert "7" == node.call("result", args=[node.call("submit", SEVEN)])["predictions"][0]["label"]
            assert "timeout" == node.error("classify", SEVEN, options={"timeoutMs": 0})["code"]
            assert [] == admin.acl_log()
        refused = older(url.replace(password_of("producer"), "Wrong"))
        assert ("WRONGPASS", False) == (refused.end(0)["error"]["code"], refused.end(0)["error"]["retry"])
        assert 1 == refused.finish()[0]
    gone = older("redis://127.0.0.1:1")
    assert ("connection", True) == (gone.end(0)["error"]["code"], gone.end(0)["error"]["retry"])
    assert 1 == gone.finish()[0]


# -- the door -----------------------------------------------------------------------------------------------------------------


def test_a_queue_that_is_always_full_again_takes_all_jobs_in_the_end(
    start: Callable[..., NodeClient], fresh_server: OwnServer
) -> None:
    with RunningService(fresh_server.url, "--max-jobs", "3"), start(fresh_server.url) as node:
        begun = [node.begin("classify", SEVEN, options=LONG) for _ in range(60)]

        assert ["7"] * 60 == [node.end(number)["value"]["predictions"][0]["label"] for number in begun]
        with redis.Redis.from_url(fresh_server.url) as connection:
            assert 0 < int(connection.hget("convq:{lenet}:door", "refused_jobs") or 0)


@pytest.mark.parametrize(
    ("reply", "code", "retry"),
    [
        ("QUEUEFULL 1 jobs are in the queue, 1 may be", "QUEUEFULL", True),
        ("SOMEWORD that a later door says", "SOMEWORD", False),
        ("ERR convq_submit: mend the call", "ERR", False),
    ],
)
def test_whatever_word_the_door_begins_its_refusal_with_is_the_code(
    start: Callable[..., NodeClient], fresh_server: OwnServer, reply: str, code: str, *, retry: bool
) -> None:
    body = f"redis.register_function('convq_submit', function() return redis.error_reply('{reply}') end)"
    with redis.Redis.from_url(fresh_server.url) as connection:
        connection.function_load(f"#!lua name=door\n{body}")
    with start(fresh_server.url) as node:
        error = node.error("classify", SEVEN, options={"timeoutMs": 300})

    assert (code, retry) == (error["code"], error["retry"])
    assert reply in error["message"]


# -- waiting ------------------------------------------------------------------------------------------------------------------


def test_where_nobody_serves_the_wait_ends_says_so_and_withdraws_the_job(
    start: Callable[..., NodeClient], fresh_server: OwnServer
) -> None:
    with start(fresh_server.url) as node:
        error = node.error("classify", SEVEN, options={"id": "mine", "timeoutMs": 300})

    assert ("timeout", True) == (error["code"], error["retry"])
    assert "no worker serves 'lenet'; served: nothing" in error["message"]
    assert {"mine"} == withdrawn(fresh_server.url)


def test_a_wrong_model_is_named_beside_those_that_are_served(
    start: Callable[..., NodeClient], service_server: OwnServer, plain: Plain
) -> None:
    wait_until(lambda: plain.redis.hexists("convq:models", "lenet"))
    with start(service_server.url, model="lenett") as node:
        error = node.error("classify", SEVEN, options={"timeoutMs": 1000})
        plain.redis.delete("convq:{lenett}:jobs", "convq:{lenett}:cancelled")

    # A door that knows the models refuses at once; before that, the wait ends and says it.
    assert error["code"] in {"timeout", "UNKNOWNMODEL"}
    assert "lenet" in error["message"].replace("lenett", "")


def test_a_job_that_is_cancelled_before_it_runs_ends_as_cancelled(node: NodeClient) -> None:
    one, other = uuid.uuid4().hex, uuid.uuid4().hex
    node.call("cancel", args=[one, other])

    assert "cancelled" == node.error("classify", SEVEN, options={"id": one})["code"]
    assert other == node.call("submit", SEVEN, options={"id": other})
    assert "cancelled" == node.call("result", args=[other])["status"]


def test_an_abort_ends_the_wait_and_withdraws_the_job(
    start: Callable[..., NodeClient], fresh_server: OwnServer
) -> None:
    with start(fresh_server.url) as node:
        many = [node.begin("classify", SEVEN, options={**LONG, "id": f"a{n}"}, abortAfterMs=500) for n in range(20)]

        assert {"aborted"} == {node.end(number)["error"]["code"] for number in many}
        wait_until(lambda: {f"a{n}" for n in range(20)} == withdrawn(fresh_server.url))


def test_closing_rejects_what_waits_and_lets_the_process_end(
    start: Callable[..., NodeClient], fresh_server: OwnServer
) -> None:
    with start(fresh_server.url) as node:
        begun = node.begin("classify", SEVEN, options={"id": "left", **LONG})
        wait_until(lambda: waiting_in(fresh_server.url) == 1)

    assert "closed" == node.end(begun)["error"]["code"]
    assert {"left"} == withdrawn(fresh_server.url)


def test_a_process_that_starts_again_under_its_name_finds_the_results_of_the_one_before(
    start: Callable[..., NodeClient], fresh_server: OwnServer
) -> None:
    with start(fresh_server.url, name="web-1") as before:
        before.call("submit", SEVEN, options={"id": "order-17"})
    with start(fresh_server.url, name="web-1") as after, RunningService(fresh_server.url):
        assert "7" == after.call("result", args=["order-17"], options=LONG)["predictions"][0]["label"]


# -- what breaks ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_two_hundred_jobs_wait_on_one_connection_and_outlive_a_killed_server(
    start: Callable[..., NodeClient], tmp_path: Path, fsync: Any
) -> None:
    with OwnServer(tmp_path, appendfsync=fsync) as server, start(server.url) as node:
        with redis.Redis.from_url(server.url) as connection:
            connection.function_load(SOURCE)
            begun = [node.begin("classify", SEVEN, options=LONG) for _ in range(200)]
            wait_until(lambda: waiting_in(server.url) == 200)
            doing = [one["cmd"] for one in connection.client_list() if one["id"] != str(connection.client_id())]
        assert (2, 1) == (len(doing), doing.count("blmpop"))
        server.kill()
        begun += [node.begin("classify", SEVEN, options=LONG) for _ in range(20)]  # with nobody there
        server.start()

        with RunningService(server.url):
            assert ["7"] * 220 == [node.end(number)["value"]["predictions"][0]["label"] for number in begun]


def test_a_job_that_the_server_lost_is_submitted_again_after_the_break(
    start: Callable[..., NodeClient], fresh_server: OwnServer
) -> None:
    with start(fresh_server.url) as node, redis.Redis.from_url(fresh_server.url) as connection:
        connection.function_load(SOURCE)
        begun = node.begin("classify", SEVEN, options={"id": "order-17", **LONG})
        wait_until(lambda: waiting_in(fresh_server.url) == 1)
        ((lost, _),) = connection.xrange(JOBS)
        connection.xdel(JOBS, lost)  # as one whose result went into a connection that broke
        connection.client_kill_filter(_type="normal", skipme=True)
        wait_until(lambda: waiting_in(fresh_server.url) == 1)

        with RunningService(fresh_server.url):
            result = node.end(begun)["value"]
    assert ("order-17", "7") == (result["id"], result["predictions"][0]["label"])


def test_a_server_that_is_not_there_is_an_error_with_a_code(start: Callable[..., NodeClient]) -> None:
    node = start("redis://:hush@127.0.0.1:1/0")

    assert ("connection", True) == (node.end(0)["error"]["code"], node.end(0)["error"]["retry"])
    assert (1, "") == node.finish()


@pytest.mark.parametrize("url", ["redis//:hush@localhost", "http://:hush@localhost", "", "redis://:hush@[::1"])
def test_a_url_that_is_none_is_refused_and_its_password_not_repeated(
    start: Callable[..., NodeClient], url: str
) -> None:
    node = start(url)

    assert "TypeError" == node.end(0)["error"]["kind"]
    assert "hush" not in str(node.ended) + node.finish()[1]


def test_a_producer_needs_no_other_right_and_a_wrong_password_is_told_without_being_repeated(
    start: Callable[..., NodeClient], tmp_path: Path
) -> None:
    with guarded_server(binary_of("redis-server"), tmp_path) as guarded, RunningService(guarded.url("worker")):
        url = guarded.url("producer")
        with redis.Redis.from_url(guarded.url("admin"), decode_responses=True) as admin:
            admin.acl_log_reset()
            with start(url) as node:
                assert "7" == node.call("classify", SEVEN)["predictions"][0]["label"]
                admin.client_kill_filter(_type="normal", user="producer")
                assert "7" == node.call("classify", SEVEN)["predictions"][0]["label"]
                job = node.call("submit", SEVEN)
                node.call("cancel", args=[job])
                assert ["lenet"] == node.call("served")
            assert [] == admin.acl_log()

        refused = start(url.replace(password_of("producer"), "Wr%40ng"))
        assert ("WRONGPASS", False) == (refused.end(0)["error"]["code"], refused.end(0)["error"]["retry"])
        assert "Wr@ng" not in str(refused.ended) + refused.finish()[1]


def test_tls_takes_the_certificates_and_refuses_a_stranger_s(start: Callable[..., NodeClient], tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path / "certificates")
    (tmp_path / "data").mkdir()
    files = {"ca": "ca.pem", "cert": "client.pem", "key": "client.key"}
    with tls_server(tmp_path / "data", certificates) as port:
        url = f"rediss://127.0.0.1:{port}/0"
        with start(url, tls={name: (certificates / file).read_text() for name, file in files.items()}) as node:
            assert re.fullmatch(r"node-[\w-]+", node.call("submit", SEVEN))
        stranger = start(url)
        assert "connection" == stranger.end(0)["error"]["code"]
        stranger.finish()


def test_the_example_of_the_page_prints_what_stands_beside_it(
    copied: Path, service_server: OwnServer, plain: Plain
) -> None:
    (code,) = re.findall(r"```js\n(.*?)```", (CLIENTS / "README.md").read_text(), re.DOTALL)
    documented = re.findall(r"console\.\w+\(.*\); +// (.*)", code)
    shutil.copy(SEVEN, copied / "seven.png")
    (copied / "example.mjs").write_text(code.replace("redis://127.0.0.1:6379", service_server.url))

    done = subprocess.run(["node", "example.mjs"], cwd=copied, capture_output=True, text=True, check=False, timeout=250)

    assert documented
    assert (documented, "", 0) == (done.stdout.splitlines(), done.stderr, done.returncode)
    wait_until(plain.nothing_left)

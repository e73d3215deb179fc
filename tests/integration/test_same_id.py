"""A job that is submitted again under its id, in every state that the first one may be in: the same job, a new one, or told why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from shards import Bench, done

from convq import Answered, JobHeld
from convq.protocol import DEDUP_WINDOW_S, Job, JobState, Priority
from convq.queue import BlockingWire, Commits, Completion, Producer, Submission, at_once
from convq.queue.dead_letters import DeadLetters
from convq.queue.keys import LANES
from servers import wait_until

ME = "convq:{lenet}:inbox:me"
PNG = b"png"


def again(bench: Bench, priority: Priority = Priority.NORMAL, reply_to: str | None = None) -> str:
    """Submit the job `a`."""
    return bench.submit(Job(image=PNG, id="a", reply_to=reply_to), priority=priority)[0]


def document(entry: str) -> bytes:
    return f'{{"v":1,"id":"a","entry":"{entry}","status":"ok"}}'.encode()


def waiting(bench: Bench) -> int:
    return sum(bench.redis.xlen(stream) for stream in bench.shard.streams)


def answer_all(bench: Bench) -> int:
    """A worker that starts anew and answers everything there is; how many documents it published."""
    work, lease = bench.worker()
    published = 0
    while jobs := [*work.reclaim(lease, 100).jobs, *work.claim(lease, 100, 1).jobs]:
        answers = [Completion(job, document(job.entry)) for job in jobs]
        published += bench.commits.complete(lease, answers).published
    work.release(lease)
    return published


def fence_all(bench: Bench) -> None:
    for name in bench.keeper.incarnations(bench.shard):
        bench.keeper.fence(bench.shard, name)


# -- what waits or runs is the same job ---------------------------------------------------------------------------------


@pytest.mark.parametrize("second", LANES)
@pytest.mark.parametrize("first", LANES)
def test_a_job_that_waits_is_the_same_job_in_whatever_priority(bench: Bench, first: Priority, second: Priority) -> None:
    entry = again(bench, first)

    assert entry == again(bench, second)
    assert 1 == waiting(bench)


@pytest.mark.parametrize("given_back", [False, True], ids=["held", "given back"])
@pytest.mark.parametrize("lease", ["good", "silent", "gone"])
def test_a_job_that_somebody_holds_is_the_same_job(bench: Bench, lease: str, given_back: bool) -> None:
    entry = again(bench)
    work, mine = bench.worker()
    jobs = work.claim(mine, 10, 1).jobs
    if given_back:
        work.give_back(mine, jobs)
    hold(bench, mine.incarnation, lease)

    assert entry == again(bench)
    fence_all(bench)
    assert 1 == answer_all(bench)
    assert [document(entry)] == bench.results("a")


def hold(bench: Bench, incarnation: str, lease: str) -> None:
    """Make a worker's lease what is said: good, silent (it ran out, and nobody has fenced it), gone."""
    if lease == "silent":
        bench.redis.zadd(bench.shard.leases, {incarnation: 1})
    elif lease == "gone":
        bench.keeper.fence(bench.shard, incarnation)


# -- what is lost is a new job ------------------------------------------------------------------------------------------

LOSSES: dict[str, Callable[[Bench, str], object]] = {
    "deleted": lambda bench, entry: bench.redis.xdel(bench.shard.streams[1], entry),
    "trimmed": lambda bench, _: bench.redis.xtrim(bench.shard.streams[1], maxlen=0, approximate=False),
    "its stream is gone": lambda bench, _: bench.redis.delete(bench.shard.streams[1]),
    "the group is gone too": lambda bench, entry: (
        bench.redis.xgroup_destroy(bench.shard.streams[1], "workers"),
        bench.redis.xdel(bench.shard.streams[1], entry),
    ),
}


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES.keys())
def test_a_job_of_which_nothing_is_left_is_a_new_job(bench: Bench, lose: Callable[[Bench, str], object]) -> None:
    bench.worker()
    first = again(bench)
    lose(bench, first)

    second = again(bench)

    assert first != second
    assert second == again(bench)
    assert 1 == answer_all(bench)
    assert [document(second)] == bench.results("a")


def test_a_deleted_job_that_a_living_worker_holds_is_answered_by_it_and_not_run_twice(bench: Bench) -> None:
    entry = again(bench)
    work, lease = bench.worker()
    jobs = work.claim(lease, 10, 1).jobs
    bench.redis.xdel(bench.shard.streams[1], entry)

    assert entry == again(bench)
    assert 0 == waiting(bench)
    bench.commits.complete(lease, [Completion(job, document(job.entry)) for job in jobs])
    assert [document(entry)] == bench.results("a")
    assert entry == again(bench)


@pytest.mark.parametrize("given_back", [False, True], ids=["held", "given back"])
def test_a_deleted_job_that_a_dead_worker_held_is_a_new_job(bench: Bench, given_back: bool) -> None:
    first = again(bench)
    work, lease = bench.worker()
    jobs = work.claim(lease, 10, 1).jobs
    bench.redis.xdel(bench.shard.streams[1], first)
    if given_back:
        work.give_back(lease, jobs)
    bench.keeper.fence(bench.shard, lease.incarnation)

    second = again(bench)

    assert first != second
    assert 1 == answer_all(bench)
    assert [document(second)] == bench.results("a")


def test_a_deleted_job_whose_worker_is_silent_is_asked_after_again(bench: Bench) -> None:
    first = again(bench)
    work, lease = bench.worker()
    jobs = work.claim(lease, 10, 1).jobs
    bench.redis.xdel(bench.shard.streams[1], first)
    bench.redis.zadd(bench.shard.leases, {lease.incarnation: 1})

    with pytest.raises(JobHeld, match="the job a was deleted, and a worker that is silent held it") as held:
        again(bench)

    assert held.value.retry
    assert 1.0 == held.value.retry_after_s
    assert JobState.RUNNING == at_once(bench.producer.status("a"))
    assert 0 == waiting(bench)
    # it may wake up, and answers then; or it is declared dead, and this is a new job
    bench.commits.complete(lease, [Completion(job, document(job.entry)) for job in jobs])
    assert first == again(bench)


def test_a_server_that_has_forgotten_everything_is_given_new_jobs(bench: Bench) -> None:
    again(bench)
    answer_all(bench)
    keys = [key for key in bench.redis.scan_iter() if key.startswith(b"convq:")]
    bench.redis.delete(*keys)

    again(bench)

    assert 1 == answer_all(bench)


# -- what is answered ---------------------------------------------------------------------------------------------------


def test_an_answer_that_nobody_has_read_is_there_for_whoever_submits_again(bench: Bench) -> None:
    entry = again(bench)
    answer_all(bench)

    assert entry == again(bench)
    assert [document(entry)] == bench.results("a")


@pytest.mark.parametrize("taken", ["read", "expired"])
def test_a_job_whose_answer_was_read_is_not_run_again(bench: Bench, taken: str) -> None:
    again(bench)
    answer_all(bench)
    key = bench.shard.result("a")
    bench.redis.lpop(key) if taken == "read" else bench.redis.delete(key)

    for _ in range(2):
        with pytest.raises(
            Answered, match=r"the id a was answered .*, and its answer was read \([0-9.]+ s ago\)"
        ) as said:
            again(bench)
        assert ("answered", "client", False) == (said.value.code, said.value.fault, said.value.retry)
    assert 0 == waiting(bench)
    assert JobState.UNKNOWN == at_once(bench.producer.status("a"))
    assert at_once(bench.producer.was_answered("a"))
    bench.redis.delete(bench.shard.job("a"))  # ten minutes later
    again(bench)
    assert 1 == answer_all(bench)


def test_the_answer_in_an_inbox_is_found_there_and_told_of_once_it_was_read(bench: Bench) -> None:
    entry = again(bench, reply_to=ME)
    bench.submit(*[Job(image=PNG, id=f"b{n}", reply_to=ME) for n in range(5)])
    answer_all(bench)

    assert entry == again(bench, reply_to=ME)
    assert 6 == len(bench.redis.lrange(ME, 0, -1))
    bench.redis.lpop(ME)
    with pytest.raises(
        Answered,
        match=r"the id a was answered already within the last 600 s, and its answer went to convq:\{lenet\}:inbox:me",
    ):
        again(bench, reply_to=ME)
    bench.redis.delete(ME)
    with pytest.raises(Answered, match="its answer went to"):
        again(bench)
    assert 0 == waiting(bench)


def test_an_answer_far_down_in_a_long_inbox_is_told_of_without_looking_through_all_of_it(bench: Bench) -> None:
    again(bench, reply_to=ME)
    answer_all(bench)
    bench.redis.rpush(ME, *[b"{}"] * 100)

    with pytest.raises(Answered, match="its answer went to"):
        again(bench, reply_to=ME)


def test_an_answer_that_found_no_inbox_is_where_every_result_is(bench: Bench) -> None:
    bench.redis.set(ME, "no list")
    entry = again(bench, reply_to=ME)
    work, lease = bench.worker()
    (job,) = work.claim(lease, 10, 1).jobs
    refused = bench.commits.complete(lease, done([job])).refused
    refused[0].reply_to = None
    bench.commits.complete(lease, done(refused))

    assert entry == again(bench, reply_to=ME)
    bench.redis.delete(bench.shard.result("a"))
    with pytest.raises(Answered, match="its answer was read"):
        again(bench, reply_to=ME)


@pytest.mark.parametrize("result_ttl_ms", [1_000, 10_000_000])
def test_a_result_lives_at_least_as_long_as_its_id_is_remembered(bench: Bench, result_ttl_ms: int) -> None:
    commits = Commits(bench.url, bench.shard, result_ttl_ms=result_ttl_ms)
    again(bench)
    work, lease = bench.worker()
    commits.complete(lease, done(work.claim(lease, 10, 1).jobs))
    bench.redis.xadd(bench.shard.streams[1], {"image": PNG, "id": "a"})  # a stranger with the same id changes nothing
    bench.redis.xadd(bench.shard.streams[1], {"image": PNG, "id": "plain"})
    commits.complete(lease, done(work.claim(lease, 10, 1).jobs))
    commits.close()

    keys = bench.shard.job("a"), bench.shard.result("a")
    id_ends_ms, result_ends_ms = (bench.redis.pexpiretime(key) for key in keys)
    assert result_ends_ms >= id_ends_ms
    assert bench.redis.pttl(keys[1]) > result_ttl_ms - 600_000
    assert (DEDUP_WINDOW_S - 60) * 1000 < bench.redis.pttl(keys[0]) <= DEDUP_WINDOW_S * 1000
    assert bench.redis.pttl(bench.shard.result("plain")) <= result_ttl_ms


def expire(bench: Bench) -> None:
    wait_until(lambda: bench.redis.time()[1])
    work, lease = bench.worker()
    assert 1 == sum(work.expire(lease, 10, 60_000)[0])


def bury(bench: Bench) -> None:
    work, lease = bench.worker()
    (job,) = work.claim(lease, 10, 1).jobs
    assert bench.commits.bury(lease, Completion(job, document(job.entry)), "crash", "why")


@pytest.mark.parametrize("inbox", [None, ME], ids=["result key", "inbox"])
@pytest.mark.parametrize("end", [expire, bury])
def test_a_job_that_expired_or_was_buried_is_answered_too(
    bench: Bench, end: Callable[[Bench], None], inbox: str | None
) -> None:
    entry = bench.submit(Job(image=PNG, id="a", ttl_ms=0, reply_to=inbox))[0]
    wait_until(lambda: int(bench.redis.time()[0]) * 1000 + bench.redis.time()[1] // 1000 > int(entry.partition("-")[0]))
    end(bench)

    assert entry == again(bench)
    bench.redis.delete(inbox or bench.shard.result("a"))
    with pytest.raises(Answered):
        again(bench)
    assert 0 == waiting(bench)


def test_a_dead_letter_that_was_put_back_is_in_the_queue_again(bench: Bench) -> None:
    again(bench)
    bury(bench)
    bench.redis.lpop(bench.shard.result("a"))
    letters = DeadLetters(bench.url.replace("worker", "admin"), bench.shard)
    (letter,) = letters.newest_first()
    ((back),) = letters.requeue([letter.id])
    letters.close()

    assert back.entry == again(bench)
    assert 1 == waiting(bench)
    assert 1 == answer_all(bench)
    bench.redis.lpop(bench.shard.result("a"))
    with pytest.raises(Answered):
        again(bench)


# -- others beside it ---------------------------------------------------------------------------------------------------


def test_a_plain_xadd_of_the_same_id_is_a_job_of_its_own_and_answers_for_nobody(bench: Bench) -> None:
    entry = again(bench)
    plain = bench.redis.xadd(bench.shard.streams[0], {"image": PNG, "id": "a"}).decode()
    work, lease = bench.worker()
    jobs = {job.entry: job for job in work.claim(lease, 10, 1).jobs}
    bench.commits.complete(lease, done([jobs[plain]]))
    bench.redis.lpop(bench.shard.result("a"))

    assert entry == again(bench)  # it still runs
    bench.commits.complete(lease, done([jobs[entry]]))
    bench.redis.lpop(bench.shard.result("a"))
    with pytest.raises(Answered):
        again(bench)


def test_jobs_of_a_map_leave_nothing_in_the_table_of_ids(bench: Bench) -> None:
    name = "map-0123456789abcdef"
    job = Job(image=PNG, id=f"{name}-0", reply_to=bench.shard.inbox(name))
    at_once(bench.producer.submit([Submission(job, once=False)]))
    answer_all(bench)

    assert not bench.redis.exists(bench.shard.job(f"{name}-0"))
    # whoever registers such an id all the same is told as everybody is, where the inbox is another
    mine = Job(image=PNG, id=f"{name}-1", reply_to=ME)
    bench.submit(mine)
    answer_all(bench)
    bench.redis.delete(ME)
    with pytest.raises(Answered):
        bench.submit(mine)


def test_an_id_twice_in_one_call_is_one_job(bench: Bench) -> None:
    first, second, other = bench.submit(Job(image=PNG, id="a"), Job(image=b"x", id="a"), Job(image=PNG))

    assert first == second != other
    assert 2 == waiting(bench)


def test_a_call_with_one_answered_id_adds_nothing(bench: Bench) -> None:
    again(bench)
    answer_all(bench)
    bench.redis.delete(bench.shard.result("a"))

    with pytest.raises(Answered, match="the id a "):
        bench.submit(Job(image=PNG), Job(image=PNG, id="a"), Job(image=PNG, id="b"))
    assert 0 == waiting(bench)


def test_what_a_stranger_wrote_for_an_id_is_not_known(bench: Bench) -> None:
    for strange in ("nonsense", "convq:{lenet}:jobs", "convq:{lenet}:jobs answered 1 1-1", "x 1-1", "\xff 1-1 1-1"):
        bench.redis.set(bench.shard.job("a"), strange)
        again(bench)
    bench.redis.delete(bench.shard.job("a"))
    bench.redis.hset(bench.shard.job("a"), "x", "y")
    again(bench)

    assert 6 == answer_all(bench)


@pytest.fixture
def old_rights(bench: Bench) -> Iterator[Producer]:
    """A producer with the rights that the protocol's page once named: it may not look where a job is."""
    rights = "on >secret +client|setname ~convq:{lenet}:* +fcall +xadd +xlen +xinfo|stream"
    rights += " +hmget +hincrby +exists +get +set +time +blpop"
    bench.redis.execute_command("ACL", "SETUSER", "old", *rights.split())
    wire = BlockingWire(f"redis://old:secret@{bench.url.partition('@')[2]}")
    yield Producer(wire, bench.shard)
    at_once(wire.close())
    bench.redis.acl_deluser("old")
    bench.redis.acl_log_reset()


def test_a_user_who_may_not_look_submits_as_ever_and_hears_of_answers(bench: Bench, old_rights: Producer) -> None:
    job = Submission(Job(image=PNG, id="a"))
    (entry,) = at_once(old_rights.submit([job]))
    assert [entry] == at_once(old_rights.submit([job]))
    bench.redis.xdel(bench.shard.streams[1], entry)
    assert [entry] == at_once(old_rights.submit([job]))

    assert entry != again(bench)
    answer_all(bench)
    bench.redis.delete(bench.shard.result("a"))
    with pytest.raises(Answered):
        at_once(old_rights.submit([job]))


def test_by_fcall_the_word_comes_first(bench: Bench) -> None:
    call = ("convq_submit", 1, bench.shard.streams[1], "id", "a", "image", PNG)
    with redis.Redis.from_url(bench.url.replace("worker", "producer"), driver_info=None) as plain:
        plain.fcall(*call)
        answer_all(bench)
        plain.lpop(bench.shard.result("a"))
        with pytest.raises(redis.ResponseError, match=r"^ANSWERED the id a was answered.*; answered_ms_ago=[0-9]+$"):
            plain.fcall(*call)


def test_the_words_stand_in_the_protocol_page() -> None:
    page = (Path(__file__).parents[2] / "service" / "PROTOCOL.md").read_text()

    for word in ("QUEUEFULL", "ANSWERED", "HELD", "UNKNOWNMODEL"):
        assert f"| `{word}` |" in page

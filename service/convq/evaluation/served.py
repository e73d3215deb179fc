"""Asks a version that a service serves, through the queue, as any client would."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from convq.client import Client
from convq.client.inputs import contents, job_for
from convq.errors import BadTensor, JobError
from convq.evaluation.dataset import ARRAY
from convq.evaluation.tally import TOP, Failed, Said
from convq.protocol import Result


def learn(
    client: Client, model: str, count: int, version: int, paths: Iterable[Path], timeout_s: float
) -> tuple[str, ...] | None:
    """The names of all `count` classes, in order; None where no picture is answered.

    The list of models in Redis does not hold them, but an answer that ranks every class does.
    """
    for path in paths:
        try:
            payload = _payload(path)
        except JobError:
            continue
        (result,) = client.map([payload], model, timeout_s, top_k=count, version=version)
        if result.ok and result.predictions:
            known = {one.index: one.label for one in result.predictions}
            return tuple(known[index] for index in sorted(known))
    return None


def answers(
    client: Client, model: str, version: int, pictures: Iterable[tuple[int, Path]], timeout_s: float
) -> Iterator[Said | Failed]:
    """What the version says of each picture. Raises what `Client.map` raises."""
    sent: deque[int] = deque()
    failed: deque[Failed] = deque()

    def payloads() -> Iterator[Any]:
        for number, path in pictures:
            try:
                payload = _payload(path)
            except JobError as error:
                failed.append(Failed(number, error.code, str(error)))
                continue
            sent.append(number)
            yield payload

    for result in client.map(payloads(), model, timeout_s, top_k=TOP, version=version):
        while failed:
            yield failed.popleft()
        yield _answer(sent.popleft(), result)
    yield from failed


def _payload(path: Path) -> Any:
    """What the client takes: the bytes of a picture, or an array. Raises JobError for what it would not take."""
    content = contents(path)
    if not path.name.lower().endswith(ARRAY):
        return content
    import numpy as np  # noqa: PLC0415 - the base install has no numpy

    try:
        array = np.lib.format.read_array(BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise BadTensor(f"not a NumPy file with numbers: {error}") from None
    job_for(array, {})
    return array


def _answer(number: int, result: Result) -> Said | Failed:
    if result.ok and result.predictions:
        return Said(number, [one.index for one in result.predictions], result.predictions[0].score)
    if result.error is not None:
        return Failed(number, result.error.code, result.error.message)
    return Failed(number, str(result.status), result.explain())

"""When a candidate is taken back: compared with what the version that serves did in the same time."""

from __future__ import annotations

import pytest

from convq.ipc.plans import Plan
from convq.ipc.series import LAYOUT
from convq.ipc.shared_memory import Board
from convq.repository.manifest import Rollout
from convq.supervisor.rollout.judging import verdict
from convq.supervisor.rollout.records import records
from convq.supervisor.rollout.served_models import ServedModel
from services import MODELS


@pytest.mark.parametrize("role", ["candidate", "shadow"])
@pytest.mark.parametrize(
    ("tried", "serving", "back"),
    [
        ((19, 19), (100, 0), False),  # too few
        ((20, 20), (4, 0), False),  # too few to compare with
        ((20, 1), (5, 0), False),
        ((20, 2), (5, 0), True),
        ((20, 20), (5, 5), False),  # no job could have been answered
        ((199, 199), (4, 4), False),
        ((200, 11), (4, 0), True),  # by itself: the others do not come
        ((200, 10), (0, 0), False),
        ((100, 55), (900, 450), False),
        ((100, 56), (900, 450), True),
        ((100, 5), (900, 0), False),
        ((100, 6), (900, 0), True),
        ((100, 100), (900, 9), True),
    ],
)
def test_a_candidate_is_judged_beside_the_version_that_serves(
    role: str, tried: tuple[int, int], serving: tuple[int, int], back: bool
) -> None:
    rows = [Board(LAYOUT, 2, 1).row(worker, 0) for worker in range(2)]
    rows[0].add("convq_version_jobs", 1000, "serving", "failed")  # long ago
    model = ServedModel.at_start(0, MODELS / "lenet")
    model.manifest = model.manifest.model_copy(update={"rollout": Rollout(version=2, percent=10.0)})
    model.plan = Plan(serve=1, candidate=2, percent=10.0, shadow=role == "shadow")
    model.counted = records(rows)

    for row, (of, counts) in zip(rows, ((role, tried), ("serving", serving)), strict=True):
        row.add("convq_version_jobs", counts[1], of, "failed")
        row.add("convq_version_jobs", counts[0] - counts[1], of, "ok")

    assert back == ("taken back" in verdict(model, rows))


def test_a_candidate_that_gets_every_job_is_judged_by_itself() -> None:
    rows = [Board(LAYOUT, 1, 1).row(0, 0)]
    model = ServedModel.at_start(0, MODELS / "lenet")
    model.manifest = model.manifest.model_copy(update={"rollout": Rollout(version=2, percent=100.0)})
    model.plan = Plan(serve=1, candidate=2, percent=100.0)
    rows[0].add("convq_version_jobs", 20, "candidate", "failed")

    assert "taken back: 20 of 20 jobs failed" == verdict(model, rows)

"""Which version answers which job, and how a service gets from one plan to the next."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convq.errors import ModelBroken
from convq.ipc.plans import Plan, next_step, plan_of
from convq.repository.manifest import Manifest


def manifest(**tables: dict[str, object]) -> Manifest:
    return Manifest.model_validate(tables)


@pytest.mark.parametrize(
    ("tables", "versions", "plan"),
    [
        ({}, [1, 2, 3], Plan(serve=3)),
        ({"versions": {"keep": 2}}, [1, 2, 3], Plan(serve=3, kept=(2,))),
        ({"versions": {"keep": 9}}, [1, 2, 3], Plan(serve=3, kept=(1, 2))),
        ({"rollout": {"version": 3, "percent": 10.0}}, [1, 2, 3], Plan(serve=2, candidate=3, percent=10)),
        ({"rollout": {"version": 3, "shadow": True}}, [1, 2, 3], Plan(serve=2, candidate=3, shadow=True)),
        ({"rollout": {"version": 3}}, [1, 2, 3], Plan(serve=2)),  # neither: held back
        ({"rollout": {"version": 2, "percent": 10.0}}, [1, 2, 3], Plan(serve=3, candidate=2, percent=10)),
        ({"rollout": {"version": 4, "percent": 10.0}}, [1, 2, 3], Plan(serve=3)),  # not there yet, or refused
        ({"rollout": {"version": 1, "percent": 10.0}}, [1], Plan(serve=1)),  # nothing else to serve
        ({"versions": {"require": 2}}, [1, 2, 3], Plan(serve=2)),
        ({"versions": {"require": 2, "keep": 2}}, [1, 2, 3], Plan(serve=2, kept=(3,))),
        ({"versions": {"require": 3, "keep": 3}}, [1, 2, 3], Plan(serve=3, kept=(1, 2))),
        ({"versions": {"require": 1}, "rollout": {"version": 3, "percent": 10.0}}, [1, 2, 3],
         Plan(serve=1, candidate=3, percent=10)),
        ({"rollout": {"version": 3, "percent": 5.0}, "versions": {"keep": 2}}, [1, 2, 3],
         Plan(serve=2, kept=(1,), candidate=3, percent=5)),
    ],
)  # fmt: skip
def test_the_manifest_says_what_is_served_of_what_is_there(
    tables: dict[str, dict[str, object]], versions: list[int], plan: Plan
) -> None:
    assert plan == plan_of(manifest(**tables), versions)


@pytest.mark.parametrize(("tables", "versions"), [({}, []), ({"versions": {"require": 2}}, [1, 3])])
def test_without_a_version_that_will_do_there_is_no_plan(
    tables: dict[str, dict[str, object]], versions: list[int]
) -> None:
    with pytest.raises(ModelBroken):
        plan_of(manifest(**tables), versions)


def test_a_job_keeps_its_version_and_the_share_is_that_of_the_manifest() -> None:
    plan = Plan(serve=1, candidate=2, percent=10)
    ids = [f"1763800000{number:03}-{number % 7}" for number in range(20_000)]

    versions = [plan.version_of(job_id) for job_id in ids]

    assert versions == [plan.version_of(job_id) for job_id in ids]
    assert 0.09 < versions.count(2) / len(ids) < 0.11


def test_more_percent_only_adds_jobs_to_those_that_the_candidate_had() -> None:
    ids = [f"job-{number}" for number in range(2000)]
    few, many = (
        {job_id for job_id in ids if Plan(serve=1, candidate=2, percent=p).version_of(job_id) == 2} for p in (5, 50)
    )

    assert few < many
    assert set(ids) == {job_id for job_id in ids if Plan(serve=1, candidate=2, percent=100).version_of(job_id) == 2}


def test_a_shadow_answers_nothing() -> None:
    plan = Plan(serve=1, candidate=2, shadow=True)

    assert {1} == {plan.version_of(f"job-{number}") for number in range(100)}
    assert 2 == plan.shadowed


plans = st.builds(
    lambda versions, serve, candidate, percent, shadow: Plan(
        serve=versions[serve % len(versions)],
        candidate=None
        if candidate is None or versions[candidate % len(versions)] == versions[serve % len(versions)]
        else versions[candidate % len(versions)],
        percent=0 if shadow else percent,
        shadow=shadow,
    ).with_loaded(versions),
    st.lists(st.integers(1, 6), min_size=1, max_size=4, unique=True),
    st.integers(0, 9),
    st.none() | st.integers(0, 9),
    st.sampled_from([0.0, 10.0]),
    st.booleans(),
)


@given(plans, plans)
def test_on_the_way_to_another_plan_nothing_answers_that_is_not_loaded_everywhere(plan: Plan, target: Plan) -> None:
    steps = [plan]
    while steps[-1] != target:
        steps.append(next_step(steps[-1], target))
        assert len(steps) <= 4, "load, switch, release"

    for before, after in itertools.pairwise(steps):
        added = set(after.loaded) - set(before.loaded)
        assert not added or (before.serve, before.candidate) == (after.serve, after.candidate), "loads, or switches"
        assert after.serve in before.loaded or after.serve in target.loaded
        assert {after.serve, after.candidate} - {None} <= set(before.loaded), "what answers was loaded before"

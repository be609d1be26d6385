"""`verify`: run verifiers on unverified rollouts; then the mean of each numeric field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rolloutops.cli.flags import Parsed
from rolloutops.cli.old_names import with_old_names
from rolloutops.cli.printing import say, show
from rolloutops.cli.shared_flags import DATA, DATASET, ENVIRONMENT, keys, stage
from rolloutops.cli.tables import table
from rolloutops.cli.which_recipe import plan_of
from rolloutops.cli.workers import WORKERS, do_job, in_workers, number_of_workers
from rolloutops.config.plan import Plan
from rolloutops.config.settings import Verify
from rolloutops.layout import all_of, count, verb

if TYPE_CHECKING:
    from rolloutops.collect.verify import VerifyReport
    from rolloutops.workers.job import WorkerJob


def body(parsed: Parsed) -> int:
    """Unjudged -> verdicts; 2 where nothing could be verified, as the recipe names no environment."""
    from rolloutops.cli.averages import averages
    from rolloutops.workers.job import read_job

    if (job := read_job()) is not None:
        return do_job(job, parsed, lambda plan: _verify_share(plan, job))
    workers = number_of_workers(parsed)
    plan = plan_of(parsed, "verify")
    done = verify_rollouts(plan) if workers is None else _verify_in_workers(plan, parsed, workers)
    say(*sentences(done))
    print(averages(plan))
    if plan.verify.against:
        show(table(*agreement_of(plan)))
    return 2 if done.rest.no_environment and not any(one.environment for one in plan.datasets.values()) else 0


COMMAND = stage(
    "verify", body, "Run verifiers on unverified rollouts", DATA, DATASET, ENVIRONMENT, *keys(Verify), *WORKERS
)


def verify_rollouts(plan: Plan, on_command: bool = True) -> VerifyReport:
    """Verify what is unverified, and record the run. on_command: also with changed verifiers that spend."""
    from rolloutops.collect.verify import verify
    from rolloutops.store.runs import recorded
    from rolloutops.store.workspace import open_workspace

    workspace = open_workspace(plan.data)
    with recorded(workspace, "verify", plan) as run:
        done = verify(workspace, plan, run, on_command)
        run.counts = with_old_names(asdict(done))
        return done


def _verify_in_workers(plan: Plan, parsed: Parsed, workers: int) -> VerifyReport:
    """Verify what is unverified in several processes, each of which records its run."""
    from rolloutops.collect.verify import verify_in_processes
    from rolloutops.store.workspace import open_workspace

    workspace = open_workspace(plan.data)
    return verify_in_processes(workspace, plan, in_workers(workspace, plan, parsed, workers))


def _verify_share(plan: Plan, job: WorkerJob) -> Mapping[str, Any]:
    """Verify as one of several processes, and record the run."""
    from rolloutops.collect.verify import verify_share
    from rolloutops.store.runs import recorded
    from rolloutops.store.workspace import open_workspace

    workspace = open_workspace(plan.data)
    with recorded(workspace, "verify", plan) as run:
        done = verify_share(workspace, plan, run, job.name)
        run.counts = with_old_names(asdict(done))
        return {"done": done.verified, "failed": done.failed, "run_id": run.run_id}


def agreement_of(plan: Plan) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Measure how far the present verdicts agree with those of [verify] against: columns and rows."""
    from rolloutops.collect.verify import agreement
    from rolloutops.store.workspace import open_workspace

    return agreement(open_workspace(plan.data), plan)


def sentences(done: VerifyReport) -> Iterator[str]:
    """Say how a verification ended, and what it could not verify."""
    rest = done.rest
    if done.unverified:
        yield f"{count(done.verified, 'rollout')} verified; {done.failed:,} verifications failed"
    elif done.waiting:
        pass  # within `run`: collect has said it, and what needs the rewards says it again with the cost
    elif not rest.rollouts:
        yield "Nothing to verify: there are no rollouts"
    elif rest.pinned:
        versions = ", ".join(f"{version} in {dataset}" for dataset, version in rest.pinned.items())
        yield f"Nothing to verify: --verdict_version selects the verdicts of {versions}"
    elif not rest.no_environment and not rest.people:
        but = f", but the verification of {rest.failed:,} failed" if rest.failed else ""
        yield f"Nothing to verify: {all_of(rest.rollouts, 'rollout')} {verb(rest.rollouts, 'have')} a verdict{but}"
    for dataset, rollouts in rest.no_environment.items():
        yield (
            f"{dataset}: {count(rollouts, 'rollout')} unverified because no environment is set: add environment = … to "
            f"[datasets.{dataset}], or give --dataset={dataset} --environment=NAME"
        )
    for dataset, rollouts in rest.people.items():
        yield (
            f"{dataset}: {count(rollouts, 'rollout')} without a person's score, so without a reward: give it in the "
            "pages of view, or with label KEY --score=NUMBER"
        )
    if rest.failed:
        yield "status shows why verification failed; verify --retry_errors runs it again"

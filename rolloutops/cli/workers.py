"""`--workers`: a command's flags become jobs, and its words a worker's."""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rolloutops import __version__
from rolloutops.cli.flags import Flag, Parsed
from rolloutops.cli.which_recipe import plan_of
from rolloutops.config.plan import Plan
from rolloutops.config.redact import tell
from rolloutops.errors import RolloutopsError, UsageError

if TYPE_CHECKING:
    from rolloutops.limits.progress import Progress
    from rolloutops.store.workspace import Workspace
    from rolloutops.workers.group import Screen, Workers
    from rolloutops.workers.job import WorkerJob

WORKERS = (
    Flag("workers", int, "number of processes that share the work, with one progress line"),
    Flag("gpus_per_worker", int, "GPUs per worker"),
    Flag("on", str, "run the workers on a Ray cluster (default: on this machine)", choices=("ray",)),
    Flag("ray_address", str, "address of the Ray cluster (default: RAY_ADDRESS, else the one this machine is part of)"),
)
NAMES = tuple(flag.name for flag in WORKERS)


def number_of_workers(parsed: Parsed) -> int | None:
    """How many workers a command line asks for; None where it asks for none. Raises UsageError where it makes none."""
    workers = parsed.flags.get("workers")
    if workers is None:
        for name in NAMES:
            if name in parsed.flags:
                raise UsageError(f"--{name} needs --workers=N, the number of processes")
    elif workers < 1:
        raise UsageError(f"--workers expects 1 or more, got {workers}")
    each = parsed.flags.get("gpus_per_worker")
    if each is not None and each < 1:
        raise UsageError(f"--gpus_per_worker expects 1 or more, got {each}")
    if "ray_address" in parsed.flags and "on" not in parsed.flags:
        raise UsageError("--ray_address needs --on=ray")
    return workers


def in_workers(
    workspace: Workspace, plan: Plan, parsed: Parsed, workers: int, stop_at: float | None = None
) -> Callable[[Progress], list[Mapping[str, Any]]]:
    """Return what starts the workers of a command and waits for them: it takes the meter of all, and returns what each
    of them did."""
    from rolloutops.workers.group import Screen, wait_for_workers

    start = _launcher(plan, parsed, workers)
    group = secrets.token_hex(4)
    grace = max([settings.grace_seconds for settings in plan.policies.values()], default=0.0)
    jobs = _jobs(plan, group, workers, stop_at, grace)

    def work(meter: Progress) -> list[Mapping[str, Any]]:
        screen = Screen()
        return wait_for_workers(workspace, group, start(jobs, screen), workers, meter, screen, grace)

    return work


def _launcher(plan: Plan, parsed: Parsed, workers: int) -> Callable[[list[WorkerJob], Screen], Workers]:
    """What starts workers where the flags say. Raises UsageError where they cannot run there."""
    from rolloutops.workers.local import LocalWorkers, share_gpus

    each = parsed.flags.get("gpus_per_worker")
    if parsed.flags.get("on") == "ray":
        return _on_ray(plan, parsed, workers, each or 0)
    variables = share_gpus(workers, each)
    return lambda jobs, screen: LocalWorkers(parsed.argv, jobs, screen.say, variables)


def _on_ray(plan: Plan, parsed: Parsed, workers: int, gpus: int) -> Callable[[list[WorkerJob], Screen], Workers]:
    """What starts workers as tasks of Ray. Raises UsageError where a key would have to be sent."""
    from rolloutops.workers.node import NodeJob
    from rolloutops.workers.own_files import own_files
    from rolloutops.workers.ray_cluster import RayWorkers, connect_to_ray

    if plan.key_places:
        raise UsageError(
            f"{', '.join(plan.key_places)}: this is a key, and keys are not sent to other machines: put it into an "
            "environment variable of the nodes, and name that with api_key_env"
        )
    ray = connect_to_ray(parsed.flags.get("ray_address"), workers, gpus, tell)
    files = own_files(plan, {**parsed.flags, **parsed.overrides})
    recipe = str(plan.path.absolute()) if plan.path and os.path.normpath(plan.path.absolute()) in files else None
    folders = (os.getcwd(), str(plan.folder.absolute()))
    place = {name: plan.record[name] for name in ("data", "path", "folder") if name in plan.record}

    def start(jobs: list[WorkerJob], screen: Screen) -> Workers:
        moved = [
            dataclasses.replace(job, recipe=recipe, place=place, keys=_key_names(plan), processes=1) for job in jobs
        ]
        return RayWorkers(ray, [NodeJob(job, parsed.argv, files, *folders) for job in moved], gpus, screen.say)

    return start


def _key_names(plan: Plan) -> list[str]:
    """The variables with keys that are set here."""
    names = {settings.api_key_env or "OPENAI_API_KEY" for settings in plan.policies.values()}
    names |= {str(dataset.environment_args.get("api_key_env") or "") for dataset in plan.datasets.values()}
    return sorted(name for name in names if os.environ.get(name))


def _jobs(plan: Plan, group: str, workers: int, stop_at: float | None, grace: float) -> list[WorkerJob]:
    from rolloutops.limits.progress import WorkerName
    from rolloutops.workers.job import WorkerJob

    return [
        WorkerJob(
            WorkerName(group, number, workers),
            data=str(plan.data.absolute()),
            stop_at=stop_at,
            versions=versions(plan),
            processes=plan.verify.processes or max(1, (os.cpu_count() or 1) // workers),
            grace_seconds=grace,
        )
        for number in range(1, workers + 1)
    ]


def versions(plan: Plan) -> dict[str, str]:
    """The version of rolloutops, and of each dataset's verifier."""
    verifiers = {f"the verifier of {name}": verifier.present.version for name, verifier in plan.verifiers.items()}
    return {"rolloutops": __version__, **verifiers}


def do_job(job: WorkerJob, parsed: Parsed, work: Callable[[Plan], Mapping[str, Any]]) -> int:
    """Do a worker's job and send what came of it. work: does it, and returns the result."""
    from rolloutops.workers.job import send

    flags = {name: value for name, value in parsed.flags.items() if name not in (*NAMES, "output")}
    positionals = {**parsed.positionals, **({"recipe": job.recipe} if job.recipe else {})}
    parsed = dataclasses.replace(parsed, flags={**flags, "data": job.data}, positionals=positionals)
    try:
        plan = plan_of(parsed, "verify" if parsed.command == "verify" else "collect")
        plan = dataclasses.replace(plan, folder=Path(job.folder)) if job.folder else plan
        _refuse_other_versions(job, plan)
        plan = dataclasses.replace(
            plan,
            record={**plan.record, **job.place},
            verify=dataclasses.replace(plan.verify, processes=job.processes),
        )
        send(result=work(plan))
        return 0
    except KeyboardInterrupt:
        return 130
    except RolloutopsError as error:
        send(error=str(error), exit_code=error.exit_code)
        return error.exit_code
    except Exception as error:
        send(error=f"{type(error).__name__}: {error}", exit_code=1)
        raise


def _refuse_other_versions(job: WorkerJob, plan: Plan) -> None:
    """Raise UsageError where this machine has another version of what gives rewards than where the command began."""
    for name, here in versions(plan).items():
        there = job.versions.get(name, here)
        if here != there:
            raise UsageError(
                f"{name} is {here} on {os.uname().nodename} and {there} where the command was started: install the "
                "same versions"
            )

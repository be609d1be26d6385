"""`collect`: generate the missing rollouts; then the mean of each numeric field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rolloutops.cli.flags import Flag, Parsed
from rolloutops.cli.old_names import with_old_names
from rolloutops.cli.printing import say
from rolloutops.cli.prompt_sentences import changed_prompt_sentences
from rolloutops.cli.rejected import rejected_sentences, remedy
from rolloutops.cli.shape_sentences import warning_sentences
from rolloutops.cli.shared_flags import (
    COLLECTING,
    COLLECTING_GROUPS,
    NEMO_GYM,
    SAMPLING,
    SHARD,
    STOP_AT,
    VERDICT_VERSION,
    stage,
)
from rolloutops.cli.which_recipe import plan_of
from rolloutops.cli.which_workspace import announce_new
from rolloutops.cli.workers import WORKERS, do_job, in_workers, number_of_workers
from rolloutops.config.paths import as_file, as_path
from rolloutops.config.plan import Plan
from rolloutops.errors import UsageError
from rolloutops.formats.finish_reasons import REFUSED
from rolloutops.layout import all_of, count, verb
from rolloutops.limits.stop_time import parse_stop_time

if TYPE_CHECKING:
    from rolloutops.collect.collect import CollectReport
    from rolloutops.collect.given_up import GivenUp
    from rolloutops.ingest.new_tasks import NewTasks
    from rolloutops.store.workspace import Workspace
    from rolloutops.workers.job import WorkerJob


def body(parsed: Parsed) -> int:
    """Owed -> attempts and verdicts; then the mean of each numeric field."""
    from rolloutops.cli.averages import averages
    from rolloutops.cli.commands.export import export_rollouts
    from rolloutops.cli.tune import refuse_name
    from rolloutops.workers.job import read_job

    if (job := read_job()) is not None:
        return do_job(job, parsed, lambda plan: _collect_share(pin_verdicts(plan), job))
    workers = number_of_workers(parsed)
    if workers and "tune" in parsed.flags:
        raise UsageError("--tune measures one process: leave --workers out")
    stop_at = parse_stop_time(parsed.flags["stop_at"]) if "stop_at" in parsed.flags else None
    plan = plan_of(parsed)
    output = as_file(parsed.flags["output"]) if "output" in parsed.flags else None
    if isinstance(parsed.flags.get("tune"), str):
        refuse_name(as_file(parsed.flags["tune"]))
    if code := take_in(plan):
        return code
    plan = pin_verdicts(plan)
    code = collect_and_say(plan, parsed, workers, stop_at)
    try:
        if output is not None:
            say(f"{count(export_rollouts(plan, output, wanted=True), 'rollout')} in {output}")
    finally:  # what was collected has averages also where the file is refused
        print(averages(plan, wanted=True))
    return code


COMMAND = stage(
    "collect",
    body,
    "Generate the missing rollouts",
    *COLLECTING,
    VERDICT_VERSION,
    SHARD,
    Flag("output", str, "also write the rollouts to this JSONL file, in NeMo Gym's shape"),
    Flag(
        "tune",
        bool | str,
        "measure throughput at increasing concurrency on pending tasks, then stop; FILE.svg or .html: plot it",
    ),
    STOP_AT,
    *WORKERS,
    **SAMPLING,
    aliases={**NEMO_GYM, "output_jsonl_fpath": "output"},
    groups=COLLECTING_GROUPS,
)


def pin_verdicts(plan: Plan) -> Plan:
    """Name the verdicts that count by the recipe's `verdict_version`, before anything is collected for it."""
    from rolloutops.collect.outdated import pinned
    from rolloutops.store.workspace import open_workspace

    return pinned(open_workspace(plan.data), plan) if plan.verdict_version else plan


def take_in(plan: Plan) -> int:
    """Take in what is new in the input and say so; 2 where lines were rejected and that was not allowed."""
    rejected = 0
    with announce_new(plan.data):
        for one in take_in_new_tasks(plan):
            say(*new_tasks(one, plan.chunk.skip_bad_lines))
            rejected += one.rejected
    return 2 if rejected and not plan.chunk.skip_bad_lines else 0


def take_in_new_tasks(plan: Plan) -> Iterator[NewTasks]:
    """Take in new and edited lines of the input, after a look at whether they can be collected at all."""
    from rolloutops.ingest.new_tasks import add_new_tasks

    _require_policies(plan)
    plan.check_plugins()
    yield from add_new_tasks(plan)


def collect_and_say(plan: Plan, parsed: Parsed, workers: int | None = None, stop_at: float | None = None) -> int:
    """Collect and say what came of it. workers: in so many processes. stop_at: when it has to have ended, in seconds
    since 1970. Returns the report's exit code."""
    allowed = parsed.flags.get("allow_policy_change", False)
    if tune := parsed.flags.get("tune"):
        return say(*tune_and_say(plan, allowed, tune))
    if workers is None:
        done = collect_rollouts(plan, allowed, stop_at=stop_at)
    else:
        done = _collect_in_workers(plan, parsed, workers, stop_at)
    say(*sentences(done), *loss_sentences(done.losses))
    if places := plan.key_places:
        say(
            f"{', '.join(places)}: this is a key: it is used but not recorded; it is safer in an environment "
            "variable that api_key_env names"
        )
    return done.exit_code


def collect_rollouts(
    plan: Plan, allow_policy_change: bool = False, tune: bool = False, stop_at: float | None = None
) -> CollectReport:
    """Collect what is pending, and record the run. tune: as many as it takes to find the best number in flight.
    stop_at: when it has to have ended, in seconds since 1970."""
    from rolloutops.collect.collect import collect
    from rolloutops.limits.stop_time import StopTime
    from rolloutops.store.runs import recorded

    workspace = _workspace_to_collect(plan, allow_policy_change)
    with recorded(workspace, "collect", plan, plan.fingerprints) as run:
        done = collect(workspace, plan, run, tune, StopTime(stop_at) if stop_at is not None else None)
        run.counts = with_old_names(asdict(done))
        run.exit_code = 0 if tune else done.exit_code
        return done


def _collect_in_workers(plan: Plan, parsed: Parsed, workers: int, stop_at: float | None) -> CollectReport:
    """Collect what is pending in several processes, each of which records its run."""
    from rolloutops.collect.collect import collect_in_processes

    workspace = _workspace_to_collect(plan, parsed.flags.get("allow_policy_change", False))
    return collect_in_processes(workspace, plan, in_workers(workspace, plan, parsed, workers, stop_at))


def _collect_share(plan: Plan, job: WorkerJob) -> Mapping[str, Any]:
    """Collect as one of several processes, and record the run."""
    from rolloutops.collect.collect import collect_share
    from rolloutops.limits.stop_time import StopTime
    from rolloutops.store.runs import recorded
    from rolloutops.store.workspace import open_workspace

    workspace = open_workspace(plan.data)
    plan.check_plugins()
    with recorded(workspace, "collect", plan, plan.fingerprints) as run:
        share = collect_share(workspace, plan, run, job.name, StopTime(job.stop_at) if job.stop_at else None)
        run.counts = asdict(share)
        return {**run.counts, "run_id": run.run_id}


def _workspace_to_collect(plan: Plan, allow_policy_change: bool) -> Workspace:
    """Open the workspace of a collection, after a look at whether it can be one."""
    from rolloutops.store.runs import refuse_changed_policies
    from rolloutops.store.workspace import open_workspace, require_tasks

    workspace = open_workspace(plan.data)
    require_tasks(workspace, plan.datasets)
    _require_policies(plan)
    plan.check_plugins()  # a misspelt parameter is one, before it is another policy
    if not allow_policy_change:
        refuse_changed_policies(workspace, plan.fingerprints)
    return workspace


def _require_policies(plan: Plan) -> None:
    """Raise UsageError where nothing can be collected, as the recipe names no dataset or nobody who answers."""
    if not plan.datasets:
        raise UsageError("the recipe names no dataset: add [datasets.NAME] with input = …, or give --input=FILE")
    if not plan.policies:
        raise UsageError("no engine is set: add engine and model to [collect], or pass --engine=NAME")


def tune_and_say(plan: Plan, allow_policy_change: bool, output: str | bool) -> Iterator[str]:
    """Collect only as much as it takes to find the best number in flight. output: a file for the plot, or True."""
    from rolloutops.cli.tune import sweep_table, write

    done = collect_rollouts(plan, allow_policy_change, tune=True)
    yield from sentences(done)
    yield from sweep_table(done.points, done.why)
    if isinstance(output, str) and done.points:
        yield f"plotted in {write(done.points, as_path(output))}"


def sentences(done: CollectReport) -> Iterator[str]:
    """Say how a collection ended."""
    if done.saved:
        yield f"recovered {count(done.saved, 'row')} from the journal of an interrupted run"
    if done.verified:
        yield f"{count(done.verified, 'rollout')} of earlier runs verified"
    if done.submitted:
        yield (
            f"{count(done.jobs, 'batch job')} submitted for {count(done.submitted, 'rollout')}: run the same command "
            "again to collect the results, or add --engine_args.wait=true to wait for them"
        )
    elif not done.wanted:
        yield "nothing to collect: the recipe wants no rollouts"
        return
    elif not done.pending and not done.done:
        but = f", but {done.given_up:,} given up" if done.given_up else ""
        yield f"nothing to collect: {all_of(done.wanted, 'rollout')} {verb(done.wanted, 'are')} done{but}"
        return
    yield (
        f"{count(done.done, 'rollout')} collected; of {done.wanted:,} wanted, {done.given_up:,} "
        f"{verb(done.given_up, 'are')} given up and {done.left:,} pending"
    )
    yield from done.spent
    for reason, number in done.refused.items():
        why = f"{REFUSED[reason]} ({_short(done.refusals[reason])})"
        yield f"{count(number, 'rollout')} with finish_reason {reason} {why}"
    if done.left and not done.spent:
        yield "run the same command again for the pending rollouts"
    if done.given_up and not any(one.too_much for one in done.losses):
        yield "run status for the reasons; retry with collect --retry=ERROR"
    if done.unrewarded:
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in done.unrewarded.items())
        again = "" if set(done.unrewarded) == {"masked"} else "; verify --retry_errors verifies them again"
        yield f"without a reward: {kinds}; run status for the reasons{again}"


def new_tasks(one: NewTasks, skip_bad_lines: bool) -> Iterator[str]:
    """Say what was taken in from a dataset's input, and what was not."""
    changes = [f"{getattr(one, name):,} {name}" for name in ("new", "edited", "returned") if getattr(one, name)]
    if changes:
        yield f"{one.dataset}: tasks updated from the input: {', '.join(changes)}"
    yield from changed_prompt_sentences(one.dataset, one.changed_prompts)
    if one.gone:
        gone = count(one.gone, "task")
        yield f"{one.dataset}: {gone} no longer in the input but still wanted; run chunk to remove them"
    if one.missing:
        yield f"{one.dataset}: input not found ({', '.join(one.missing)}); continuing with the tasks of the workspace"
    if one.shapes is not None:
        yield from warning_sentences(one.shapes, one.dataset)
    yield from rejected_sentences(one, one.dataset)
    if one.rejected and not skip_bad_lines:
        yield remedy()


REMEDIES = {
    "timeout": "raise request_timeout, or lower num_samples_in_parallel",
    "unreachable": "start the endpoint, or correct base_url",
    "loading": "wait until the endpoint has loaded its model, or set a longer deadline",
    "connection": "read the endpoint's log",
    "rate_limited": "set requests_per_minute or tokens_per_minute to what the endpoint allows",
    "server_error": "read the endpoint's log",
    "bad_response": "read the reply in column response of the view failures",
    "bad_request": "correct what the endpoint refuses: a sampling parameter, a tool, or the prompt",
    "forbidden": "change or remove these prompts, which a firewall or the provider refuses",
    "content_filter": "change or remove these prompts, or use a model or provider that answers them",
    "context_length": "shorten the prompts, lower max_output_tokens, or use a model with a longer context",
    "engine_error": "read the engine's log",
    "media_changed": "put the files back as they were, or run chunk again",
    "environment_error": "fix the environment: it raised an exception outside a tool",
}
"""Kind of failure -> what helps. Those that end a run are never given up."""


def loss_sentences(losses: Sequence[GivenUp]) -> Iterator[str]:
    """Say what is given up and why; and of what is too much, how to go on."""
    for one in losses:
        limit = f", more than max_given_up = {one.allowed:g} allows" if one.too_much else ""
        yield f"{one.dataset} by {one.policy}: {one.rollouts:,} of {count(one.wanted, 'rollout')} given up{limit}"
        for reason in one.reasons:
            example = f", e.g. {_short(reason.example)}" if reason.example else ""
            yield f"  {reason.rollouts:,} {reason.kind}{example}"
            if one.too_much and reason.kind in REMEDIES:
                yield f"    to fix it, {REMEDIES[reason.kind]}"
    kinds = list(dict.fromkeys(reason.kind for one in losses if one.too_much for reason in one.reasons))
    if kinds:
        yield f"then retry them: run the same command with --retry={','.join(kinds)}"
        share = max(one.rollouts / one.wanted for one in losses)
        yield f"or accept the missing rollouts with --max_given_up={min(1.0, _up(share)):g}"


def _up(share: float) -> float:
    """A share with two digits that is not below it."""
    return -(-share * 100 // 1) / 100


def _short(text: str) -> str:
    """Text on one line, cut where it is long."""
    text = " ".join(text.split())
    return text if len(text) <= 160 else text[:159] + "…"

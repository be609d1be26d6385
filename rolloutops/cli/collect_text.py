"""Sentences about a collection: what it took in from the input, and what it gave up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rolloutops.cli.text import count

if TYPE_CHECKING:
    from rolloutops.collect.given_up import GivenUp
    from rolloutops.ingest.new_tasks import NewTasks

REMEDIES = {
    "timeout": "raise request_timeout, or lower num_samples_in_parallel",
    "unreachable": "start the endpoint, or correct base_url",
    "loading": "wait until the endpoint has loaded its model, or set a longer deadline",
    "connection": "look into the endpoint's own log",
    "rate_limited": "set requests_per_minute or tokens_per_minute to what the endpoint allows",
    "server_error": "look into the endpoint's own log",
    "bad_response": "see column response of the view failures for what came instead of an answer",
    "bad_request": "correct what the endpoint refuses: a sampling parameter, a tool, or the prompt",
    "forbidden": "change or remove these prompts, which a firewall or the provider refuses",
    "content_filter": "change or remove these prompts, or take a model or provider that answers them",
    "context_length": "shorten the prompts, lower max_output_tokens, or take a model with a longer context",
    "engine_error": "look into the engine's log",
    "environment_error": "correct the environment: it raised outside a tool",
}
"""Kind of failure -> what helps. Those that end a run are never given up."""


def new_tasks(one: NewTasks, skip_bad_lines: bool) -> Iterator[str]:
    """Say what was taken in from a dataset's input, and what was not."""
    changes = [f"{getattr(one, name):,} {name}" for name in ("new", "edited", "returned") if getattr(one, name)]
    if changes:
        yield f"{one.dataset}: tasks taken in from its input: {', '.join(changes)}"
    if one.gone:
        gone = count(one.gone, "task")
        yield f"{one.dataset}: {gone} gone from its input and still wanted; `chunk` retires what is gone"
    if one.missing:
        yield f"{one.dataset}: no input here ({', '.join(one.missing)}); going on with the tasks of the workspace"
    if one.rejected:
        yield f"{one.dataset}: {count(one.rejected, 'line')} rejected, listed in {one.rejected_file}; the first:"
        yield from (f"  {example}" for example in one.examples)
        if not skip_bad_lines:
            yield "correct those lines and run the same command again, or leave them out with --skip_bad_lines"


def given_up(found: Sequence[GivenUp]) -> Iterator[str]:
    """Say what is given up and why; and of what is too much, how to go on."""
    for one in found:
        limit = f", more than max_given_up = {one.allowed:g} allows" if one.too_much else ""
        yield f"{one.dataset} by {one.policy}: {one.rollouts:,} of {count(one.wanted, 'rollout')} given up{limit}"
        for reason in one.reasons:
            example = f", e.g. {_short(reason.example)}" if reason.example else ""
            yield f"  {reason.rollouts:,} {reason.kind}{example}"
            if one.too_much and reason.kind in REMEDIES:
                yield f"    to fix it, {REMEDIES[reason.kind]}"
    kinds = list(dict.fromkeys(reason.kind for one in found if one.too_much for reason in one.reasons))
    if kinds:
        yield f"then retry them: run the same command with --retry={','.join(kinds)}"
        share = max(one.rollouts / one.wanted for one in found)
        yield f"or accept what is missing, with --max_given_up={min(1.0, _up(share)):g}"


def _up(share: float) -> float:
    """A share with two digits that is not below it."""
    return -(-share * 100 // 1) / 100


def _short(text: str) -> str:
    """Text on one line, cut where it is long."""
    text = " ".join(text.split())
    return text if len(text) <= 160 else text[:159] + "…"

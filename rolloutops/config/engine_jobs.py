"""Engine jobs: the policies of a plan by the engine that answers them, and by what is set for all that is in flight."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rolloutops.config.plugins import BUILT_IN, Plugin, find
from rolloutops.config.sampling import refuse_bad_extra_body, refuse_bad_sampling
from rolloutops.config.secrets import Secret
from rolloutops.config.settings import Collect
from rolloutops.config.validation import Key, check_table
from rolloutops.errors import FAILURES, UsageError, located
from rolloutops.types import BatchClient, Engine

CollectPlan = Mapping[tuple[str, str], Collect]
"""(dataset, policy) -> how it is collected."""

ENGINE_KEYS = ("base_url", "endpoint", "api_key_env", "api_key_header", "request_timeout")
"""Keys of [collect] that are arguments of the engine, where it takes them: a rehearsal with another may not."""
LIMITS = ("max_tokens_total", "max_cost", "prices")
"""Keys of [collect] that say what may be spent: who has the same ones has one spend limit."""
WINDOW_KEYS = (
    *("num_samples_in_parallel", "max_failure_rate", "requests_per_minute", "tokens_per_minute", "grace_seconds"),
    *LIMITS,
)
"""Keys of [collect] that a window has for all that is in it: what differs in one of them has a window of its own."""


RETRY = {"retry": Key(str, one_of=tuple(FAILURES))}
"""What one name in `retry` must be."""


@dataclass(frozen=True)
class EngineJob:
    """What one engine has to answer, window by window. settings: those of its first dataset and policy, which all share
    as far as the engine goes."""

    settings: Collect
    plugin: Plugin
    windows: Sequence[CollectPlan]

    @property
    def in_batches(self) -> bool:
        """Whether a provider answers in batches, and no engine call by call."""
        return self.settings.engine == "batch"

    def make_engine(self) -> Engine:
        """Make the engine, which is not started yet."""
        engine: Engine = self._make()
        return engine

    def make_batch_client(self) -> BatchClient:
        """Make the client that asks in batches, which is not started yet."""
        client: BatchClient = self._make()
        return client

    def _make(self) -> Any:
        takes = self.plugin.takes()
        args = {k: v for k in ENGINE_KEYS if k in takes and (v := getattr(self.settings, k)) is not None}
        if self.settings.token_ids:
            args["token_ids"] = True
        if self.settings.model:
            args["model"] = self.settings.model
        return self.plugin.make({**self.settings.engine_args, **args})


def engine_jobs(
    policies: CollectPlan, folder: Path, origins: Mapping[tuple[str, str], Mapping[str, str]]
) -> list[EngineJob]:
    """Group policies by the engine that answers them, and of each by what a window has for all that is in it.

    folder: the recipe's, in which an engine of one's own may lie. origins: the file and table of each key. Raises
    UsageError where one names no engine, or one that is not there, or sets what no engine can do.
    """
    found: dict[str, dict[str, dict[tuple[str, str], Collect]]] = {}
    for key, settings in policies.items():
        if not settings.engine:
            raise UsageError(f"no engine for {key[0]!r}: add engine = … to [collect], or give --engine=NAME")
        _refuse_nonsense(settings, origins.get(key, {}))
        own = settings.engine not in BUILT_IN["engine"]
        refuse_bad_sampling(settings.responses_create_params, any_name=own)
        engine, window = (
            json.dumps([getattr(settings, name) for name in names], sort_keys=True, default=Secret.reveal)
            for names in (("engine", "model", "token_ids", "engine_args", *ENGINE_KEYS), WINDOW_KEYS)
        )
        found.setdefault(engine, {}).setdefault(window, {})[key] = settings
    return [_engine_job(list(windows.values()), folder, origins) for windows in found.values()]


def _engine_job(
    windows: Sequence[CollectPlan], folder: Path, origins: Mapping[tuple[str, str], Mapping[str, str]]
) -> EngineJob:
    key, settings = next(iter(windows[0].items()))
    with located(origins.get(key, {}).get("engine", "")):
        return EngineJob(settings, find("engine", settings.engine, folder), windows)


def _refuse_nonsense(settings: Collect, origins: Mapping[str, str]) -> None:
    extra = settings.engine_args.get("extra_body")
    if isinstance(extra, dict):
        refuse_bad_extra_body(extra, "engine_args.extra_body")
        if type(extra.get("seed")) is int and settings.num_repeats > 1:
            raise UsageError(
                "engine_args.extra_body.seed would be the same for each repeat of a task: set "
                "responses_create_params.seed, to which the index of the repeat is added"
            )
    for kind in settings.retry or ():
        with located(origins.get("retry", "")):
            check_table(RETRY, {"retry": kind}, "")

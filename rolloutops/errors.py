"""Every error that rolloutops raises on purpose, and the one list of ways in which a rollout can fail.

Exception
├── RolloutopsError            one sentence: what, where, what to do next; ends the command
│   ├── UsageError             a command line or recipe that cannot be run
│   ├── InputError             a file that is missing, empty, unreadable or wrong
│   ├── MissingExtra           a package that is not installed; the message holds the install line
│   ├── WorkspaceError         a workspace that cannot be read or written
│   ├── PolicyChanged          a policy name that already stands for other parameters
│   ├── StepError              a SQL step that cannot be run, or whose check found rows
│   ├── RunStopped             a run of a whole recipe that stopped before its builds
│   ├── WorkerFailed           a process of a command with --workers that ended with an error
│   └── EngineError            a policy engine that cannot start, or that died
└── AttemptFailed              one rollout failed: a row of `attempts`, never the end of a run
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


class RolloutopsError(Exception):
    """A mistake or a hindrance that ends the command. The text is one sentence for the user."""

    exit_code = 2


class UsageError(RolloutopsError):
    """A command line or a recipe that cannot be run."""


@contextmanager
def located(where: str) -> Iterator[None]:
    """Name the place of a mistake in front of its sentence: `recipe.toml [collect]`; nothing where `where` is empty."""
    try:
        yield
    except UsageError as error:
        raise (UsageError(f"{where}: {error}") if where else error) from error.__cause__


class InputError(RolloutopsError):
    """A file that is missing, empty, unreadable or wrong."""


class MissingExtra(RolloutopsError):
    """A package that the asked-for feature needs is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs packages that are not installed: pip install 'rolloutops[{extra}]'")


class WorkspaceError(RolloutopsError):
    """A workspace that cannot be read or written."""


class WorkerFailed(RolloutopsError):
    """A process of a command with --workers that ended with an error, whose exit code is the command's."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class PolicyChanged(RolloutopsError):
    """A policy name that already stands for another engine, model or parameters."""


class StepError(RolloutopsError):
    """A SQL step that cannot be run, or whose check found rows."""


class RunStopped(RolloutopsError):
    """A run of a whole recipe stopped before its builds; `exit_code` is that of the command `run`: 2, 3 or 4."""

    def __init__(self, why: str, exit_code: int) -> None:
        super().__init__(why)
        self.exit_code = exit_code


class EngineError(RolloutopsError):
    """A policy engine that cannot start, or that died in mid-run. What had ended is kept."""


@dataclass(frozen=True)
class Failure:
    """How one kind of failed attempt is treated.

    retried: a later attempt may succeed. counted: it is one of the `max_attempts` tries; where the endpoint was not
    reached, or refused for now or whoever asks, the rollout was not tried at all.
    """

    retried: bool
    meaning: str
    counted: bool = True


FAILURES: dict[str, Failure] = {
    "timeout": Failure(True, "no answer within the time allowed"),
    "unreachable": Failure(True, "no connection to the endpoint", counted=False),
    "loading": Failure(True, "the endpoint was still loading the model", counted=False),
    "connection": Failure(True, "the endpoint closed the connection"),
    "rate_limited": Failure(True, "rate limited by the endpoint (429)", counted=False),
    "server_error": Failure(True, "the endpoint failed (5xx)"),
    "bad_response": Failure(True, "the reply could not be parsed"),
    "bad_request": Failure(False, "the endpoint or engine refused the request"),
    "unauthorized": Failure(
        False, "the key was refused (401), or the account is out of money or at its spend limit (402)", counted=False
    ),
    "forbidden": Failure(False, "the endpoint refused this request (403) while it answered others", counted=False),
    "content_filter": Failure(False, "a content filter refused the prompt, or removed the whole answer"),
    "context_length": Failure(False, "the prompt does not fit into the model's context, or into one request (413)"),
    "engine_error": Failure(True, "the engine failed on this request"),
    "media_changed": Failure(False, "a media file of the prompt is missing, or has changed since chunk"),
    "environment_error": Failure(False, "the environment's begin() raised an exception"),
}
"""kind -> how it is treated. An attempt's `error` column holds one of these names."""


class AttemptFailed(Exception):
    """One attempt failed.

    kind: a name of FAILURES. final: do not try again (default: what FAILURES says). retry_after: seconds that the
    endpoint asked to wait. raw: the reply as received, its first 2 KB. limits: what its headers said
    (engines.Limits). answer: what it cost, where it is an answer that cannot be used (engines.ModelAnswer). asked:
    whether a request was sent at all. of_conversation: the conversation was refused, not the call's parameters or who
    sent it; after the first turn that is the model's own message, and the rollout is kept.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        final: bool | None = None,
        retry_after: float | None = None,
        raw: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message[:2048]
        self.final = (not FAILURES[kind].retried) if final is None else final
        self.retry_after = retry_after
        self.raw = raw
        self.limits: Any = None
        self.answer: Any = None
        self.asked = True
        self.of_conversation = False


def near_names(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """Return the known names that a mistyped one may mean, the nearest first; none where none is near.

    Of steps, `filter/reward`, only the last part is compared: their kinds would make all of one kind look alike. A
    part of a name counts only where several may be shown: `max` is a part of many.
    """
    typed = name.lower().rpartition("/")[2]

    def likeness(other: str) -> float:
        tail = other.lower().rpartition("/")[2]
        part = 0.7 if most > 1 and len(typed) > 2 and (typed in tail or tail in typed) else 0.0
        return max(part, difflib.SequenceMatcher(None, typed, tail).ratio())

    scores = {other: score for other in known if (score := likeness(other)) >= 0.6}
    return sorted(scores, key=scores.__getitem__, reverse=True)[:most]


def did_you_mean(name: str, known: Iterable[str], most: int = 1) -> str:
    """`, did you mean 'a', 'b' or 'c'?`, with up to `most` near names; an empty string if none is near."""
    *others, last = [f"'{other}'" for other in near_names(name, known, most)] or [""]
    return f", did you mean {', '.join(others)}{' or ' if others else ''}{last}?" if last else ""

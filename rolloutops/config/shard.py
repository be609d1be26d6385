"""A shard: the part of every dataset that one of several commands works on, by the hash of the task's id.

Schedulers hand out numbers, and each command takes the tasks whose hash has its number as the remainder. Which tasks
these are depends on their ids alone, and neither on the workspace nor on what else the input holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rolloutops.errors import UsageError


class Shard(NamedTuple):
    """Shard `number`, from 0, of `total`."""

    number: int
    total: int


def read_shard(text: str, environ: Mapping[str, str]) -> Shard:
    """Read `i/n`, or the numbers that a scheduler hands out. Raises UsageError where that is no shard.

    `slurm`: a job array, whatever its first number and its step. `k8s`: a Kubernetes indexed job, which must be told
    its completions, since Kubernetes sets only the index.
    """
    where = f"--shard={text}"
    if text == "slurm":
        lowest = _variable(where, environ, "SLURM_ARRAY_TASK_MIN")
        step = _variable(where, environ, "SLURM_ARRAY_TASK_STEP") if "SLURM_ARRAY_TASK_STEP" in environ else 1
        number = (_variable(where, environ, "SLURM_ARRAY_TASK_ID") - lowest) // max(step, 1)
        return _checked(where, number, _variable(where, environ, "SLURM_ARRAY_TASK_COUNT"))
    if text == "k8s":
        number = _variable(where, environ, "JOB_COMPLETION_INDEX")
        return _checked(where, number, _variable(where, environ, "JOB_COMPLETIONS"))
    first, slash, last = text.partition("/")
    if not slash or not _is_number(first) or not _is_number(last):
        raise UsageError(
            f"{where}: a shard is i/n with i from 0 to n - 1, as in --shard=0/8; or slurm or k8s, to take i and n "
            "from the environment variables of the job"
        )
    return _checked(where, int(first), int(last))


def _variable(where: str, environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name)
    if value is None or not _is_number(value):
        found = "is not set" if value is None else f"is {value!r}, which is not a number"
        remedy = (
            "set it in the pod to the job's completions"
            if name == "JOB_COMPLETIONS"
            else "run the command in a job that has it"
        )
        raise UsageError(f"{where}: the environment variable {name} {found}: {remedy}, or name the shard: --shard=i/n")
    return int(value)


def _checked(where: str, number: int, total: int) -> Shard:
    if not 0 <= number < total:
        numbers = f"the shards of {total} are numbered 0 to {total - 1}" if total > 0 else "n must be at least 1"
        raise UsageError(f"{where}: there is no shard {number} of {total}; {numbers}")
    return Shard(number, total)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()

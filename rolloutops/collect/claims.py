"""Which rollouts of a part a process works on: its claims, so that several share a part, however small it is.

A claim is a file that lists rollouts. Its process holds the lock of the file until what it made of them is in part
files, so a claim ends with its process, however that ends. Claims of a part are read and made under the part's lock,
which nobody holds for longer than that takes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator
from functools import partial
from itertools import count
from typing import NamedTuple

import orjson

from rolloutops.store.disk_errors import refusal
from rolloutops.store.failpoints import failpoint
from rolloutops.store.journal import has_journal, seal_orphans
from rolloutops.store.workspace import Workspace, lock_file

NUMBERS = count()
"""Numbers the claims of this process: two must not have one name."""
ROLLOUTS = re.compile(r"_(\d+)\.claim$")
"""How many rollouts a claim lists, at the end of its name: to count them nothing has to be read."""


class Key(NamedTuple):
    """A rollout of a dataset."""

    task_id: str
    policy: str
    rollout_index: int


class Claims:
    """The claims of a workspace, of which those made here are this process's own."""

    def __init__(self, workspace: Workspace, run_id: str) -> None:
        self._workspace, self._run_id = workspace, run_id
        self._folder = workspace.root / "locks" / "claims"
        self._own: set[str] = set()
        self._met: dict[str, int] = {}  # claims of others, and how many rollouts each lists
        self._awaited: set[str] = set()
        """Claims of others that were met since `have_changed` last said so."""

    def of_others(self, dataset: str, part: int) -> set[Key]:
        """The rollouts of a part that other processes work on. To be called under the part's lock.

        What processes that are no more have left is sealed, and their claims are taken away.
        """
        found: set[Key] = set()
        dead = []
        for name in self._listed():
            if name.removeprefix(".").rsplit(".", 3)[:2] != [dataset, str(part)]:
                continue
            if name[0] == ".":  # whoever made it has died over it: we hold the lock
                (self._folder / name).unlink(missing_ok=True)
            elif name not in self._own:
                keys, run_id = self._read(name)
                found |= keys
                self._awaited.add(name)
                if run_id is not None:
                    dead.append((name, run_id))
        seal_orphans(self._workspace)
        for name, run_id in dead:
            if has_journal(self._workspace, run_id):  # its rows are in no part file yet: another process seals it
                found |= self._read(name, dead_too=True)[0]
            else:
                (self._folder / name).unlink(missing_ok=True)
        return found

    def rollouts_of_others(self) -> int:
        """How many rollouts other processes have claimed since this one began, as far as it has met their claims."""
        self._met |= {name: int(found[1]) for name in self._others() if (found := ROLLOUTS.search(name))}
        return sum(self._met.values())

    def sweep(self) -> None:
        """Take away the claims of processes that are no more, once all that these have made is in part files."""
        for name in self._others():
            _, run_id = self._read(name)
            if run_id is not None and not has_journal(self._workspace, run_id):
                (self._folder / name).unlink(missing_ok=True)

    def claim(self, dataset: str, part: int, keys: Collection[Key]) -> Callable[[], None]:
        """Claim rollouts of a part, under its lock. Returns what gives them back, when all is in part files."""
        name = f"{dataset}.{part}.{self._run_id}-{next(NUMBERS)}_{len(keys)}.claim"
        hidden = self._folder / f".{name}"
        try:
            self._folder.mkdir(exist_ok=True)
            hidden.write_bytes(orjson.dumps([self._run_id, list(map(list, keys))]))
            fd = os.open(hidden, os.O_RDWR | os.O_CLOEXEC)
            lock_file(fd)
            self._own.add(name)
            os.replace(hidden, self._folder / name)
        except OSError as error:
            raise refusal(self._workspace.root, error) or error from error
        failpoint("claim-made")
        return partial(self._release, name, fd)

    def have_changed(self) -> bool:
        """Whether another process has given back a claim that `of_others` met, or is no more."""
        one_of_each = {name.rsplit(".", 2)[1].rpartition("-")[0]: name for name in self._awaited}
        changed = (
            not self._awaited
            or not self._awaited <= set(self._others())
            or any(self._read(name)[1] is not None for name in one_of_each.values())
        )
        if changed:
            self._awaited.clear()
        return changed

    def _others(self) -> Iterator[str]:
        return (name for name in self._listed() if name[0] != "." and name not in self._own)

    def _listed(self) -> list[str]:
        try:
            return os.listdir(self._folder)
        except FileNotFoundError:  # nobody has claimed anything yet
            return []

    def _read(self, name: str, dead_too: bool = False) -> tuple[set[Key], str | None]:
        """What a claim of a process that lives lists; of one that is no more nothing, and its run."""
        try:
            fd = os.open(self._folder / name, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return set(), None
        with os.fdopen(fd, "rb") as file:
            dead = lock_file(fd)
            try:
                run_id, keys = orjson.loads(file.read())
            except orjson.JSONDecodeError:  # a power cut has emptied it, and ended whoever held it
                run_id, keys = "", []
        return (set() if dead and not dead_too else {Key(*key) for key in keys}), run_id if dead else None

    def _release(self, name: str, fd: int) -> None:
        (self._folder / name).unlink(missing_ok=True)
        os.close(fd)
        self._own.discard(name)

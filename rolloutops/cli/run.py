"""The command line: nothing runs before every flag, name and value is checked.

`fire` dispatches, but on its own it runs a command before it looks at a mistyped flag, reads `1e5` and `a,b` as
Python, and answers a mistake with a traceback. So command_words sorts and checks a command line before Fire is even
imported, and writes it down in words that Fire passes on untouched: `--name=text`, `+table.key=text`, `=positional`.
Fire hands them to one callable, which takes nothing but text, binds it to the declared types and runs the command.
"""

from __future__ import annotations

import errno
import os
import re
import select
import sys
import traceback
from collections.abc import Sequence
from typing import TextIO

from rolloutops.cli.flags import Command, Flag, Parsed, quoted
from rolloutops.cli.help import help_text, overview
from rolloutops.cli.parse import bind, sort_words
from rolloutops.cli.streams import prepare
from rolloutops.config.redact import for_screen
from rolloutops.errors import RolloutopsError, UsageError, did_you_mean
from rolloutops.visible import visible

__all__ = ["Command", "Flag", "Parsed", "help_text", "main"]

HELP = ("-h", "--help")

HINDRANCES = {
    errno.ENOSPC: "no space is left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
    errno.EIO: "the disk failed (input/output error)",
    errno.ESTALE: "the file system lost the file (stale file handle)",
    errno.ENOLCK: "the file system has no file locks",
    errno.EROFS: "the file system is read-only",
    errno.EFBIG: "the file would be larger than allowed ('ulimit -f' says how large)",
    errno.ENOTDIR: "there is a file where a folder is needed",
    errno.EEXIST: "the path already exists",
    errno.EISDIR: "there is a folder where a file is needed",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EBADF: "the output is closed, or open for reading only",
    errno.ELOOP: "symbolic links form a loop",
    errno.EMFILE: "too many files are open ('ulimit -n' raises the limit)",
}
"""What the machine may refuse: no bug and no traceback, but a sentence."""


def main(argv: Sequence[str], commands: Sequence[Command], program: str, version: str, about: str) -> int:
    """Run a command line, given without the program's name, and return its exit code.

    0 or what the command returned · 1 a bug · 2 the user's mistake, or a hindrance such as a full disk ·
    130 interrupted · 141 whoever read the output has gone. ROLLOUTOPS_TRACEBACK=1 raises the errors instead.
    """
    prepare()
    argv, speaker = list(argv), program
    try:
        _refuse_other_encodings(argv)
        page = _page(argv, commands, program, version, about)
        if page is None:
            command = _find(argv[0], commands)
            speaker = f"{program} {command.name}"
            tokens, flags = sort_words(command, argv[1:])
            bind(command, tokens, flags, argv)
            speaker = program
            code = _dispatch(command, tokens, flags, argv)
        else:
            sys.stdout.write(page)
            code = 0
        sys.stdout.flush()
        return code
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and any([_give_up(sys.stdout), _give_up(sys.stderr)]):
            return 141  # as any program whose reader, say `head`, has seen enough
        if os.environ.get("ROLLOUTOPS_TRACEBACK", "0") not in ("", "0"):
            raise
        return _reported(error, speaker, f"{program} {version}")


def _page(argv: list[str], commands: Sequence[Command], program: str, version: str, about: str) -> str | None:
    """The page that the command line asks for; None where it asks for a command to be run."""
    before = argv[: argv.index("--")] if "--" in argv else argv
    names = [word for word in before if word not in HELP]
    requested = len(names) < len(before)
    known = {command.name for command in commands}
    if names[:1] == ["help"] and (len(names) == 1 or names[1] in known or "help" not in known):
        names, requested = names[1:], True  # of what is no command, the command `help` tells
    if names[:1] == ["--version"]:
        return f"{program} {version}\n"
    if not argv or (requested and not names):
        return overview(commands, program, about)
    return help_text(_find(names[0], commands), program) if requested else None


def _find(name: str, commands: Sequence[Command]) -> Command:
    known = {command.name: command for command in commands}
    if name in known:
        return known[name]
    if name.startswith("-"):
        raise UsageError(f"the command must come before its flags, and {quoted(name)} is a flag; --help lists them")
    raise UsageError(f"no command {quoted(name)}{did_you_mean(name, known) or '; --help lists the commands'}")


def _refuse_other_encodings(argv: Sequence[str]) -> None:
    """Names in tables, and paths that DuckDB opens, are UTF-8."""
    for word in argv:
        if not _is_utf8(word):
            raise UsageError(
                f"{visible(word)[:200]} is not UTF-8 text: rename what it names, or make a link to it with such a name"
            )


def _is_utf8(text: str) -> bool:
    """Whether it has no bytes that Python could not decode."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _dispatch(command: Command, tokens: list[str], flags: dict[str, str], argv: list[str]) -> int:
    import fire
    from fire.decorators import SetParseFn

    code = 0

    def call(*tokens: str, **flags: str) -> None:
        nonlocal code
        returned = command.run(bind(command, tokens, flags, argv))
        code = returned if isinstance(returned, int) else 0

    SetParseFn(str)(call)
    words = [*tokens, *(f"--{name}={text}" for name, text in flags.items())]
    # Fire takes what follows the last `--` for itself; no word can be its separator, or begin a flag of its own.
    fire.Fire({command.name: call}, [command.name, *words, "--", "--separator=\x1f"], name=argv[0])
    return code


def _reported(error: BaseException, speaker: str, release: str) -> int:
    """`_report`, where standard error may be full, or nobody reads it any more."""
    try:
        return _report(error, speaker, release)
    except OSError as unwritten:
        _give_up(sys.stderr)
        return 141 if isinstance(unwritten, BrokenPipeError) else 2


def _report(error: BaseException, speaker: str, release: str) -> int:
    """Say on stderr what ended the command, and return the exit code."""
    code, said = 2, ""
    if isinstance(error, KeyboardInterrupt):
        code, said = 130, "interrupted; rerun the same command to continue"
    elif isinstance(error, RolloutopsError):
        code, said = error.exit_code, str(error)
    elif isinstance(error, MemoryError):
        said = "out of memory: reduce concurrency or batch size, then rerun"
    elif isinstance(error, OSError) and error.errno in HINDRANCES:
        place = error.filename2 or error.filename
        said = HINDRANCES[error.errno] + (f": {place}" if place else "")
        _give_up(sys.stdout)
    elif isinstance(error, UnicodeEncodeError) and not _is_utf8(error.object):
        said = f"{visible(error.object)[:200]} is not UTF-8 text: rename what it names, or what it is in"
    else:
        code, said = 1, f"this is a bug in {release}, not your mistake: please report it with the lines above"
        trace = traceback.TracebackException.from_exception(error)
        ours = [depth for depth, frame in enumerate(trace.stack) if frame.filename == __file__]
        below = trace.stack[ours[-1] + 1 :]  # neither this file's frames nor Fire's
        trace.stack = traceback.StackSummary.from_list(below[-6:] or trace.stack)
        sys.stderr.write(for_screen("".join(trace.format())))
    notes = getattr(error, "__notes__", []) if isinstance(error, RolloutopsError) else []
    sys.stderr.write(
        "\n".join([for_screen(re.sub(r"\s*[\r\n]\s*", " ", f"{speaker}: {said}")), *map(for_screen, notes)]) + "\n"
    )
    return code


def _give_up(stream: TextIO) -> bool:
    """Can nothing be written to this stream any more? If so, drop what it holds.

    Else Python would try once more to write it when the process ends, and complain.
    """
    try:
        stream.flush()
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        broken = any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except ValueError:  # it has no file of its own: a test has captured it
        return False
    except OSError:
        broken = True
    if broken:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return broken

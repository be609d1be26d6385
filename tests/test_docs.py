"""The documentation: every command on a page runs and says what the page shows; the reference is what the code says.

A ```console block holds commands, `$ ` before each and `> ` before its further lines, and what they print. `…` or `...`
stands for anything inside a line, alone on a line for any number of lines. White space, the widths of tables, all but
the last line of a stage's progress, and the progress of an import, which only a slow one shows, do not count. Where a
block shows no output, or a command of it none, only the exit code counts: it must be 0.

A block of another language is a file where the paragraph before it ends with the file's name: "`tasks.jsonl`:".
Comments directly before a block say more: `<!-- exit 2 -->` (of its last command), `<!-- not run: reason -->`,
`<!-- needs vllm -->` (run with ROLLOUTOPS_SLOW=1 where vLLM is installed), and, anywhere, `<!-- run: command -->`, a
command that the reader need not see. A page is one shell session in an empty folder; after `<!-- new session -->` there
is another one.

    python -m tests.test_docs docs/howto/resume.md     prints what the commands of a page say
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import pytest

from rolloutops.cli.main import COMMANDS
from rolloutops.config.plugins import BUILT_IN, find
from rolloutops.config.resources import shipped
from rolloutops.errors import FAILURES
from rolloutops.steps.step import KINDS, read_step
from rolloutops.store import schema
from scripts import make_reference
from tests.helpers import CHECKOUT, environ

DOCS = CHECKOUT / "docs"
PAGES = {
    "README.md": 2,
    "docs/tutorial_first_build.md": 20,
    "docs/python.md": 5,
    "docs/tutorial_environment.md": 9,
    "docs/recipes.md": 8,
    "docs/builds.md": 6,
    "docs/howto/add_a_command.md": 5,
    "docs/howto/add_a_target.md": 6,
    "docs/howto/add_an_engine.md": 8,
    "docs/howto/backup.md": 13,
    "docs/howto/budgets.md": 3,
    "docs/howto/choose_engine.md": 3,
    "docs/howto/cron.md": 2,
    "docs/howto/hf_jobs.md": 0,
    "docs/howto/import_rollouts.md": 10,
    "docs/howto/load_in_trainers.md": 4,
    "docs/howto/media.md": 2,
    "docs/howto/mix_datasets.md": 8,
    "docs/howto/nemo_gym.md": 2,
    "docs/howto/one_machine.md": 3,
    "docs/howto/prompt_files.md": 5,
    "docs/howto/ray.md": 0,
    "docs/howto/resume.md": 12,
    "docs/howto/sampling.md": 5,
    "docs/howto/scale_out.md": 12,
    "docs/howto/skypilot.md": 0,
    "docs/howto/slurm.md": 0,
    "docs/howto/sql.md": 10,
    "docs/howto/start_a_project.md": 12,
    "docs/howto/task_files.md": 4,
    "docs/howto/throughput.md": 4,
    "docs/howto/troubleshooting.md": 6,
    "docs/howto/verify_later.md": 9,
    "docs/howto/view.md": 3,
    "docs/howto/write_a_step.md": 9,
}
"""Page -> commands that it has at least, so that the test cannot go empty."""

BLOCK = re.compile(
    r"<!-- run: (?P<hidden>.+?) -->|^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```[ ]*$", re.MULTILINE | re.DOTALL
)
COMMENT = re.compile(r"<!-- (needs vllm|not run: .+?|exit \d+) -->\s*$")
FILE = re.compile(r"`([\w./-]+\.(?:py|toml|jsonl|json|sql|txt))`[^`\n]*:\s*$")


@dataclass(frozen=True)
class Command:
    """One command of a page. shows: its output on the page, None where it is not compared. code: its exit code."""

    line: int
    text: str
    shows: str | None = None
    code: int = 0


Played: TypeAlias = list[Future[list[tuple[Command, int, str]]]]
"""A page under way: for each of its sessions the commands, their exit codes, and what they printed."""


@dataclass(frozen=True)
class File:
    """One file of a page, to be written before the commands that follow."""

    name: str
    text: str


def sessions(page: Path) -> Iterator[str]:
    """The text of each session of a page, with empty lines in place of those before it, so that line numbers hold."""
    parts = page.read_text(encoding="utf-8").split("<!-- new session -->")
    for number, part in enumerate(parts):
        yield "\n" * sum(before.count("\n") for before in parts[:number]) + part


def steps_of(page: str) -> Iterator[Command | File]:
    """What a page has to be run, in order."""
    for found in BLOCK.finditer(page):
        before, line = page[: found.start()].rstrip(), page.count("\n", 0, found.start()) + 1
        if found["hidden"]:
            yield Command(line, found["hidden"])
            continue
        comment = COMMENT.search(before)
        word = comment[1] if comment else ""
        if word.startswith("not run") or (word == "needs vllm" and not slow()):
            continue
        name = FILE.search(before)
        if found["language"] == "console":
            commands = list(commands_of(found["text"], line + 1))
            if word.startswith("exit"):
                commands[-1] = replace(commands[-1], code=int(word.split()[1]))
            yield from commands
        elif name:
            yield File(name[1], found["text"])


def commands_of(text: str, line: int) -> Iterator[Command]:
    """The commands of a console block that begins at a line, each with the output that follows it."""
    for found in re.finditer(r"^\$ (?P<command>.*\n(?:^> .*\n)*)(?P<shows>(?:^(?!\$ ).*\n)*)", text, re.MULTILINE):
        command = re.sub(r"^> ", "", found["command"], flags=re.MULTILINE).rstrip("\n")
        yield Command(line + text.count("\n", 0, found.start()), command, found["shows"].strip() or None)


def slow() -> bool:
    """Whether blocks that need vLLM are run."""
    return os.environ.get("ROLLOUTOPS_SLOW") == "1" and importlib.util.find_spec("vllm") is not None


def play(page: str, folder: Path) -> list[tuple[Command, int, str]]:
    """Run a page in a folder: each command with its exit code and what it printed."""
    steps = list(steps_of(page))
    programs = folder / ".bin"
    programs.mkdir()
    for name, module in (("rolloutops", "-m rolloutops"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        (programs / name).chmod(0o755)
    script = ["exec 2>&1"]
    for number, step in enumerate(steps):
        if isinstance(step, File):
            stored = programs / f"file{number}"
            stored.write_text(step.text, encoding="utf-8")
            script.append(f'mkdir -p "$(dirname {step.name})" && cp "{stored}" {step.name}')
        else:
            script += [step.text, r"printf '\036%d\036' $?"]
    (programs / "session").write_text("\n".join(script) + "\n", encoding="utf-8")
    done = subprocess.run(
        ["bash", str(programs / "session")],
        cwd=folder,
        env=environ(PATH=f"{programs}:{os.environ['PATH']}"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=1800,
        check=False,
    )
    commands = [step for step in steps if isinstance(step, Command)]
    said = done.stdout.split("\x1e")
    assert len(said) == 2 * len(commands) + 1, f"the session ended early:\n{done.stdout[-2000:]}"
    return [(command, int(said[2 * at + 1]), said[2 * at]) for at, command in enumerate(commands)]


def alike(shown: str, said: str) -> bool:
    """Whether an output is the one that a page shows, with its wildcards."""
    said = re.sub(r"^[\d,]+/[\d,]+ lines · .*\n", "", said, flags=re.MULTILINE)
    said = re.sub(r"^[\d,]+/[\d,]+ (rollouts|verdicts) · .*\n(?=[\d,]+/[\d,]+ \1 · )", "", said, flags=re.MULTILINE)
    lines = [" ".join(re.sub("─+", "─", line).split()) for line in said.strip().splitlines()]
    pattern = ""
    for line in shown.strip().splitlines():
        words = " ".join(re.sub("─+", "─", line).split())
        if words in ("…", "..."):
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*?".join(re.escape(part) for part in re.split(r"…|\.\.\.", words)) + r"\n"
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in lines)) is not None


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Played]]:
    """All sessions of all pages under way, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        yield {
            name: [pool.submit(play, text, tmp_path_factory.mktemp("page")) for text in sessions(CHECKOUT / name)]
            for name in sorted(PAGES, key=PAGES.__getitem__, reverse=True)
        }


@pytest.mark.parametrize("name", PAGES)
def test_a_pages_commands_run_and_say_what_it_shows(name: str, played: Mapping[str, Played]) -> None:
    commands = [command for session in played[name] for command in session.result()]
    assert len(commands) >= PAGES[name], "commands are missing, or the page is no longer understood"
    faults = []
    for command, code, said in commands:
        if code != command.code:
            faults.append(f"{name}:{command.line}: exit {code}, not {command.code}: {command.text}\n{said}")
        elif command.shows is not None and not alike(command.shows, said):
            faults.append(
                f"{name}:{command.line}: {command.text}\nprinted\n{said}\nwhere the page shows\n{command.shows}"
            )
    assert not faults, "\n\n".join(faults)


def test_the_tutorials_tools_work() -> None:
    page = (DOCS / "tutorial_environment.md").read_text(encoding="utf-8")
    code = next(step.text for step in steps_of(page) if isinstance(step, File) and step.name == "roman.py")
    tools = page[page.index("Add to the class:") :].split("```")[1].removeprefix("python\n")
    names: dict[str, type] = {}
    exec(f"{code}\n\nclass WithTools(Roman):\n{tools}", names)
    environment = names["WithTools"](0.0)
    state = environment.begin(None)
    assert environment.call("value_of", {"symbol": "x"}, state) == 10
    with pytest.raises(ValueError, match="value_of takes one of I, V"):
        environment.call("value_of", {"symbol": "Z"}, state)
    assert state == {"calls": 2}
    assert environment.tools[0]["function"]["name"] == "value_of"


def test_outputs_are_compared() -> None:
    assert alike("a  b\n───  ─\n1  …\n…\nend", "a    b\n─  ─────\n1    22\n2    33\n3    44\nend\n")
    assert alike("no tail ...", "no tail at all")
    assert not alike("a b", "a c")
    assert not alike("a", "a\nb")
    assert not alike("a\nb", "a")


def test_generated_pages_are_what_the_code_says() -> None:
    for path, text in make_reference.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"run python scripts/make_reference.py: {path} is stale"


def test_reference_names_everything() -> None:
    page = (DOCS / "reference.md").read_text(encoding="utf-8")
    steps = [
        read_step(f"{p.parent.name}/{p.stem}", p) for p in shipped("sql").glob("*/*.sql") if p.parent.name in KINDS
    ]
    columns = [field.name for table in schema.TABLES.values() for field in table]
    plugins = [find(kind, name) for kind, names in BUILT_IN.items() for name in names]
    named = {
        "command": ([f"### {command.name}\n" for command in COMMANDS], 13),
        "flag": ([f"--{flag.name}" for command in COMMANDS for flag in command.flags if flag.default is not True], 60),
        "step": ([f"#### {step.name}\n" for step in steps], 18),
        "parameter": ([f"| `{name}` | {param.kind} |" for step in steps for name, param in step.params.items()], 20),
        "column": ([f"| `{name}` |" for name in columns], 75),
        "view": (
            [f"### View {name}\n" for name in re.findall(r"VIEW (\w+)", (shipped("sql") / "views.sql").read_text())],
            12,
        ),
        "plug-in": ([f"### {plugin.kind.capitalize()} {plugin.name}\n" for plugin in plugins], 8),
        "setting": ([f"| `{name}` |" for plugin in plugins for name in plugin.takes()], 30),
        "failure": ([f"| `{name}` |" for name in FAILURES], 10),
        "variable": ([f"`{name}`" for name in variables_of_the_package()], 1),
    }
    for kind, (wanted, at_least) in named.items():
        missing = [text for text in wanted if text not in page]
        assert not missing, f"{kind}: {missing}"
        assert len(wanted) >= at_least, f"only {len(wanted)} of kind {kind}: is the list read where it is?"


def test_every_setting_is_explained() -> None:
    for kind, names in BUILT_IN.items():
        for name in names:
            plugin = find(kind, name)
            meanings = {name: key.about for name, key in plugin.keys().items()}
            assert all(meanings.values()), f"{kind} {name}: the docstring of make does not explain {meanings}"


def variables_of_the_package() -> set[str]:
    """Environment variables of our own that the package reads."""
    sources = [path.read_text(encoding="utf-8") for path in (CHECKOUT / "rolloutops").rglob("*.py")]
    return {name for text in sources for name in re.findall(r"[\"'](ROLLOUTOPS_\w+)[\"']", text)}


def test_links_lead_somewhere() -> None:
    pages = [CHECKOUT / "README.md", *sorted(DOCS.rglob("*.md"))]
    links = 0
    for page in pages:
        for target in re.findall(r"\]\((?!https?://|mailto:)([^)\s]+)\)", prose(page)):
            place, _, anchor = target.partition("#")
            path = (page.parent / place).resolve() if place else page
            assert path.exists(), f"{page.name} links to {target}, which is not there"
            if anchor:
                assert anchor in anchors(path), f"{page.name} links to {target}, which has no such heading"
            links += 1
    assert links >= 100


def test_every_page_is_in_the_index_and_its_commands_are_run() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    pages = [page for page in sorted(DOCS.rglob("*.md")) if page != DOCS / "README.md"]
    for page in pages:
        name = str(page.relative_to(DOCS))
        assert f"]({name})" in index, f"docs/README.md does not link to {name}"
        assert "```console" not in page.read_text(encoding="utf-8") or f"docs/{name}" in PAGES, f"{name}: add to PAGES"
    assert len(pages) >= 20


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for number, session in enumerate(sessions(Path(sys.argv[1]))):
            (place := Path(folder, str(number))).mkdir()
            for command, code, said in play(session, place):
                print(f"$ {command.text}\n{said}" + (f"[exit {code}]\n" if code else ""))

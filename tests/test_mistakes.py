"""Mistakes and hindrances: each is one sentence that says what, where and what to do; exit 2, and nothing is lost."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rolloutops.cli.main import main
from tests.helpers import CHECKOUT, environ, query, rolloutops, sums, write_jsonl
from tests.loopback import serving

RECIPE = """data = "w"
[datasets.sums]
input = "tasks.jsonl"
environment = "exact_match"
id = "n"
[collect]
engine = "scripted"
num_repeats = 2
retry_seconds = 0.01
[[steps]]
kind = "filter"
name = "solved"
use = "filter/solve_rate"
low = 0.1
[[steps]]
kind = "build"
name = "sft"
use = "build/sft_messages"
output = "out/sft"
"""

Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def chunked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tasks, a recipe, and a workspace that holds the tasks."""
    folder = tmp_path_factory.mktemp("project")
    write_jsonl(folder / "tasks.jsonl", sums(6))
    (folder / "recipe.toml").write_text(RECIPE)
    rolloutops("chunk", "recipe.toml", cwd=folder)
    return folder


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """What the command line printed."""
    return capsys


@pytest.fixture
def project(chunked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the working directory."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("MY_KEY", raising=False)
    folder = shutil.copytree(chunked, tmp_path / "project")
    (folder / "empty.jsonl").touch()
    (folder / "blank.jsonl").write_text("\n\n")
    (folder / "folder").mkdir()
    monkeypatch.chdir(folder)
    return folder


def cases() -> Iterator[Any]:
    """The cases of mistakes.txt: what is taken out of the recipe, what comes in, the command line, the sentence."""
    for stanza in (CHECKOUT / "tests" / "mistakes.txt").read_text(encoding="utf-8").split("\n\n"):
        *edits, reported = stanza.strip().splitlines() or [""]
        if edits and edits[-1].startswith("$ "):
            command = edits.pop()[2:]
            out, into = ([line[2:] for line in edits if line[0] == mark] for mark in "-+")
            assert len(out) + len(into) == len(edits), stanza
            yield pytest.param("\n".join(out), "\n".join(into), command, reported, id=f"{command}: {reported}"[:99])


def held(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, but for the log of commands and the locks."""
    files = (path for path in folder.rglob("*") if path.is_file())
    kept = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {name: data for name, data in kept.items() if not name.startswith(("w/runs/", "w/locks/"))}


def sentence(words: Sequence[str], said: Said) -> str:
    """What a command line that is a mistake says: one line, and of a query its place, indented."""
    assert main(list(words)) == 2, said.readouterr()
    lines = [line for line in said.readouterr().err.splitlines() if words[0] != "sql" or line[:2] != "  "]
    assert len(lines) == 1, lines
    return lines[0].removeprefix("rolloutops: ")


@pytest.mark.parametrize(("out", "into", "words", "told"), list(cases()))
def test_a_mistake_is_one_sentence_and_writes_nothing(
    project: Path, said: Said, out: str, into: str, words: str, told: str
) -> None:
    assert out in RECIPE, "the case does not fit the recipe"
    recipe = RECIPE.replace(out, into) if out else RECIPE + into
    (project / "recipe.toml").write_text(recipe)
    write_jsonl(project / "tasks.jsonl", [{**row, "same": "x"} for row in sums(6)] if "same" in into else sums(6))
    before = held(project)
    line = sentence(shlex.split(words), said)
    assert re.fullmatch(".*".join(map(re.escape, told.split("[...]"))), line), line
    assert held(project) == before


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        (b'data = "caf\xe9"', "recipe.toml is not UTF-8 text (byte 11); save it as UTF-8"),
        (RECIPE.encode("utf-16"), "recipe.toml is not UTF-8 text (byte 0); save it as UTF-8"),
        (b"x = " + b"[" * 9999, "recipe.toml is nested too deeply for a recipe"),
        (b"", "the recipe names no dataset: add [datasets.NAME] with input = \u2026, or give --input=FILE"),
    ],
)
def test_a_recipe_that_is_no_text(project: Path, said: Said, recipe: bytes, told: str) -> None:
    (project / "recipe.toml").write_bytes(recipe)
    before = held(project)
    assert sentence(["run", "recipe.toml"], said) == told
    assert held(project) == before


def test_a_byte_order_mark_and_windows_line_ends_are_no_mistake(project: Path, said: Said) -> None:
    (project / "recipe.toml").write_bytes(b"\xef\xbb\xbf" + RECIPE.replace("\n", "\r\n").encode())
    assert main(["run", "recipe.toml"]) == 0, said.readouterr().err


@pytest.mark.parametrize("table", ["tasks", "attempts", "runs"])
@pytest.mark.parametrize("size", [0, 60])
def test_a_file_that_is_damaged_is_named(project: Path, said: Said, table: str, size: int) -> None:
    assert main(["collect", "recipe.toml"]) == 0
    said.readouterr()
    file = sorted((project / "w" / table).rglob("*.parquet"))[0]
    file.write_bytes(file.read_bytes()[:size])
    for command in ("status", "collect", "build", "verify"):
        line = sentence([command, "--data=w"], said)
        assert line.startswith(f"{file.relative_to(project)} is damaged (")
        assert "put a copy in its place, or delete it and run the same commands again; deleting it costs " in line


# Engines ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "extra"), [("m", "vllm"), ("smollm2-135m", "cpu")])
def test_an_engine_that_is_not_installed_says_how(
    project: Path, said: Said, monkeypatch: pytest.MonkeyPatch, model: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    line = sentence(["collect", "recipe.toml", "--engine=vllm", f"--model={model}"], said)
    assert line == f"the engine vllm needs packages that are not installed: pip install 'rolloutops[{extra}]'"
    assert query(project / "w", "SELECT count(*) FROM attempts") == [(0,)]


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_a_model_path_that_is_not_there(project: Path, said: Said) -> None:
    line = sentence(["collect", "recipe.toml", "--engine=vllm", "--model=./models/none"], said)
    assert line == "no folder ./models/none to load a model from"


def test_an_endpoint_that_refuses_loses_no_rollout(project: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    requested = ("collect", "recipe.toml", "--engine=openai", "--model=m", "--endpoint=chat", "--max_attempts=2")
    done = subprocess.run(
        [sys.executable, "-m", "rolloutops", *requested, f"--base_url=http://{address}/v1"],
        env=environ(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode in (2, 3), done.stderr
    assert address in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert query(project / "w", "SELECT status, count(*) FROM wanted_states GROUP BY status") == [("pending", 12)]
    with serving() as server:
        rolloutops(*requested, f"--base_url={server.url}", cwd=project)
    assert query(project / "w", "SELECT status, count(*) FROM wanted_states GROUP BY status") == [("done", 12)]


def test_check_tells_of_engines_before_anything_is_spent(
    project: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*words: str) -> tuple[int, str]:
        code = main(["check", "recipe.toml", *words])
        return code, said.readouterr().out.splitlines()[-1]

    with serving() as server:
        at = f"--base_url={server.url}"
        answers = f"ok   engine openai m: {server.url}/responses answers"
        assert told("--engine=openai", "--model=m", at) == (0, answers)
    code, line = told("--engine=openai", "--model=m", at)
    assert (code, line.startswith(f"BAD  engine openai m: {server.url}/responses: ")) == (2, True)
    missing = "OPENAI_API_KEY is not set: export it, or name another variable with --api_key_env"
    assert told("--engine=openai", "--model=m") == (2, f"BAD  engine openai m: {missing}")
    monkeypatch.setitem(sys.modules, "vllm", None)
    missing = "the engine vllm needs packages that are not installed: pip install 'rolloutops[vllm]'"
    assert told("--engine=vllm", "--model=m") == (2, f"BAD  engine vllm m: {missing}")


# Disks --------------------------------------------------------------------------------------------------------------


def on_a_small_disk(folder: Path, script: str) -> str:
    """Run a shell script in whose working directory `small` is a disk of 1.5 MB of its own; what it printed."""
    if shutil.which("unshare") is None:
        pytest.skip("this system cannot mount a disk for a test: no unshare")
    (folder / "small").mkdir()
    setting_up = "mount -t tmpfs -o size=1500k none small || exit 77\n"
    with_program = f'rolloutops() {{ "{sys.executable}" -m rolloutops "$@"; }}\n'
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", setting_up + with_program + script],
        cwd=folder,
        env=environ(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"this system cannot mount a disk for a test: {done.stderr.strip()}")
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


FULL = """
rolloutops chunk recipe.toml 2> /dev/null
rolloutops collect recipe.toml 2>&1 | tail -1
cp -r small/w full
rolloutops collect recipe.toml
rolloutops chunk recipe.toml --input=more.jsonl
mount -o remount,size=30m small
rolloutops collect recipe.toml > /dev/null 2>&1 || echo "collect failed"
rolloutops status recipe.toml > /dev/null || echo "status failed"
cp -r small/w w
"""


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "tasks.jsonl", sums(1500))
    write_jsonl(tmp_path / "more.jsonl", sums(6000))
    (tmp_path / "recipe.toml").write_text(RECIPE.replace('data = "w"', 'data = "small/w"'))
    reported = on_a_small_disk(tmp_path, FULL)
    full = "no space is left in small/w: free some, and run the same command again; what is stored stays"
    collected, *later = reported.splitlines()
    assert re.fullmatch(f"rolloutops: {full}(; [0-9]+ rows that came after could not be kept)?", collected)
    assert later == [f"rolloutops: {full}"] * 2
    durable = {
        line.split(b'"attempt_id":"')[1].split(b'"')[0].decode()
        for journal in (tmp_path / "full/journals").glob("*.jsonl")
        for line in journal.read_bytes().split(b"\n")
        if line.startswith(b'{"attempts"') and line.endswith(b"}}")
    }
    assert len(durable) > 300, "much was done before the disk was full"
    kept = {attempt for (attempt,) in query(tmp_path / "w", "SELECT attempt_id FROM attempts")}
    assert durable <= kept
    counted = "SELECT count(*), count(DISTINCT (task_id, rollout_index)), count(reward) FROM rollouts"
    assert query(tmp_path / "w", counted) == [(3000, 3000, 3000)]
    assert not list((tmp_path / "w").rglob("*.tmp"))


READ_ONLY = """
rolloutops chunk recipe.toml 2> /dev/null
rolloutops collect recipe.toml --limit=3 > /dev/null 2>&1
mount -o remount,ro small
for command in chunk collect verify build; do rolloutops $command recipe.toml; done
rolloutops chunk recipe.toml --data=small/other
for command in status metrics; do rolloutops $command recipe.toml > /dev/null 2>&1 || echo "$command failed"; done
rolloutops sql --data=small/w --csv 'SELECT count(*) FROM rollouts' || echo "sql failed"
rolloutops check recipe.toml | grep BAD
"""


def test_a_workspace_that_cannot_be_written_can_be_read(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "tasks.jsonl", sums(6))
    (tmp_path / "recipe.toml").write_text(RECIPE.replace('data = "w"', 'data = "small/w"'))
    reported = on_a_small_disk(tmp_path, READ_ONLY)
    refused = (
        "rolloutops: small/w cannot be written (read-only file system): make it writable, or name another with --data"
    )
    made = "rolloutops: cannot create the workspace small/other: Read-only file system; choose another with --data"
    bad = "BAD  small/w cannot be written: permission denied at small/w; choose another with --data"
    assert sorted(reported.splitlines()) == sorted([refused] * 4 + [made, "count_star()", "6", bad])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(project: Path, said: Said) -> None:
    (project / "w" / "runs").chmod(0o555)
    line = sentence(["collect", "recipe.toml"], said)
    assert line.startswith("w cannot be written (permission denied): make it writable")


def test_a_file_that_may_not_grow(project: Path) -> None:
    program = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); "
    program += "import sys; from rolloutops.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, "collect", "recipe.toml"],
        env=environ(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("rolloutops: no space is left in w: free some")


def test_folders_may_have_any_name(chunked: Path, tmp_path: Path) -> None:
    """Characters of globs and SQL in the names of workspace and output; ~ in a recipe, where no shell has seen it."""
    shutil.copy(chunked / "tasks.jsonl", tmp_path)
    for data, output in (("w [1]*?{a,b}'\"é", "o [2]*'"), ("~/w", "~/o")):
        kept = RECIPE.replace('data = "w"', f"data = '''{data}'''").replace('"out/sft"', f"'''{output}'''")
        (tmp_path / "recipe.toml").write_text(kept)
        rolloutops("run", "recipe.toml", cwd=tmp_path, HOME=str(tmp_path / "home"))
        root = tmp_path / "home" if data.startswith("~") else tmp_path
        lines = root / output.removeprefix("~/") / "train.jsonl"
        found = rolloutops("trace", str(lines), cwd=tmp_path, HOME=str(tmp_path / "home")).stdout
        assert "no longer holds" not in found
        assert (root / data.removeprefix("~/") / "runs").is_dir()
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    ("words", "near"),
    [
        ("collect --temprature=1", "responses_create_params.temperature"),
        ("collect +temprature=1", "responses_create_params.temperature"),
        ("run --max_output_token=5", "responses_create_params.max_output_tokens"),
        ("check --temperature=1", "responses_create_params.temperature"),
        ("check --num_repeat=4", "num_repeats"),
        ("import x.jsonl --polcy=m", "policy"),
        ("build --verdict_versio=x", "verdict_version"),
        ("status --whatch", "watch"),
    ],
)
def test_a_misspelt_flag_names_the_near_one(
    words: str, near: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    assert f"did you mean '--{near}'?" in capsys.readouterr().err

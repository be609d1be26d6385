"""What is written to a terminal, a pipe or nowhere: control characters, encodings, closed streams, odd paths."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
from pathlib import Path

import pytest

from rolloutops.cli.tables import table
from rolloutops.visible import visible, visible_json
from tests.helpers import command, environ, on_a_terminal, rolloutops, sums, write_jsonl
from tests.loopback import serving

EVIL = "a\x1b]0;owned\x07b\x9b2Jc\u202ed\u2066e\u200bf\u2028g\x7fh\ufeffi"
RAW = ("\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\u200b", "\u2028", "\x7f", "\ufeff")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose every text is evil: ids, file names, answers, errors."""
    folder = tmp_path_factory.mktemp("screens")
    rows = [{**row, "id": f"{n}{EVIL}"} for n, row in enumerate(sums(6))]
    write_jsonl(folder / f"in{EVIL.replace('/', '')}.jsonl", rows)
    fault = (500, {}, json.dumps({"error": {"message": f"{EVIL} broke", "code": EVIL}}).encode())
    with serving(faults=[fault, fault], answer=lambda _: EVIL) as server:
        words = ["collect", "--input=in*.jsonl", "--dataset=d", "--id=id", "--data=w", "--environment=exact_match"]
        words += ["--engine=openai", "--model=m", f"--base_url={server.url}", "--max_attempts=1"]
        done = subprocess.run(command(*words), cwd=folder, env=environ(), capture_output=True, check=False)
    (folder / "said").write_bytes(done.stdout + done.stderr)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        *(
            ["status"],
            ["status", "--json"],
            ["metrics"],
            ["metrics", "--group_by=task"],
            ["metrics", "--csv", "--step=rewards"],
        ),
        ["metrics", "--step=errors"],
        *(["sql", "SELECT * FROM attempts", *more] for more in ([], ["--json"], ["--csv"])),
        *(["sql", f"SELECT '{EVIL}' AS \"{EVIL}\""], ["sql", f"SELECT {EVIL}"], ["explain", f"--only={EVIL}"]),
        *(["filter", f"--filter.{EVIL}.x=1"], ["trace", EVIL], ["lint", EVIL, "--target=sft_messages"], [EVIL]),
    ],
    ids=lambda words: " ".join(words[:2]).encode("ascii", "replace").decode(),
)
def test_a_terminal_is_never_given_orders(folder: Path, words: list[str]) -> None:
    said = on_a_terminal(folder, *words, *([] if words == [EVIL] else ["--data=w"]))
    assert not [c for c in RAW if c in said], said
    assert "this is a bug" not in said


def test_progress_and_errors_are_escaped_and_machine_formats_are_exact(folder: Path) -> None:
    said = (folder / "said").read_text(encoding="utf-8")
    assert not [c for c in RAW if c in said], said
    query = "SELECT text FROM rollouts WHERE text IS NOT NULL LIMIT 1"
    assert json.loads(rolloutops("sql", query, "--json", "--data=w", cwd=folder).stdout) == [{"text": EVIL}]
    rows = list(csv.reader(io.StringIO(rolloutops("sql", query, "--csv", "--data=w", cwd=folder).stdout)))
    assert rows == [["text"], [EVIL]]
    rolloutops("sql", query, "--output=o.jsonl", "--data=w", cwd=folder)
    assert json.loads((folder / "o.jsonl").read_text(encoding="utf-8")) == {"text": EVIL}


def test_one_function_escapes() -> None:
    assert visible("a\tb\nc é 漢 🙂") == "a\tb\nc é 漢 🙂"
    assert visible("\r\x00\x85\u2069\U000e0041\udcff") == r"\x00".replace("00", "0d") + r"\x00\x85\u2069\U000e0041\xff"
    assert json.loads(visible_json(json.dumps({"é": EVIL}, ensure_ascii=False))) == {"é": EVIL}
    assert r"\x1b" in table(["x"], [["\x1b[2J"]])


ODD = [
    *(">&-", "2>&-", ">&- 2>&- <&-", "1<in.jsonl", ">/dev/full", "2>/dev/full", "| head -c 1", "2>&1 | head -n 0"),
]


@pytest.mark.parametrize("where", ODD)
@pytest.mark.parametrize(
    "words", ["status --data=w", "collect --input=in.jsonl --data=v --engine=scripted", "list", "no"]
)
def test_whatever_becomes_of_the_output_there_is_no_traceback(
    folder: Path, tmp_path: Path, words: str, where: str
) -> None:
    write_jsonl(tmp_path / "in.jsonl", sums(5))
    shell = f"set -o pipefail; {{ {' '.join(command(*words.replace('=w', f'={folder}/w').split()))}; }} {where}"
    done = subprocess.run(
        ["bash", "-c", shell], cwd=tmp_path, env=environ(), capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 2, 141), done
    for text in ("Traceback", "this is a bug", "Exception ignored"):
        assert text not in done.stdout + done.stderr
    if "&-" in where and words.startswith("collect"):
        assert done.returncode == 0
        found = rolloutops("sql", "--data=v", "--csv", "SELECT count(*) FROM rollouts", cwd=tmp_path)
        assert found.stdout.split() == ["count_star()", "5"]


@pytest.mark.parametrize("coding", ["ascii", "latin-1", "cp437"])
def test_a_terminal_that_knows_other_characters(folder: Path, coding: str) -> None:
    for words in (
        ["status"],
        ["metrics"],
        ["list"],
        ["--help"],
        ["sql", "SELECT '漢 é' AS a"],
        ["sql", "--json", "SELECT '漢é' AS a"],
    ):
        data = [] if words[0] in ("list", "--help") else ["--data=w"]
        argv = command(*words, *data)
        done = subprocess.run(argv, cwd=folder, env=environ(PYTHONIOENCODING=coding), capture_output=True, check=False)
        assert done.returncode == 0, done
        said = done.stdout.decode(coding)
        if words[1:2] == ["--json"]:
            assert json.loads(said) == [{"a": "漢é"}]
        assert "\\u2500" not in said
        assert "\\u2026" not in said


@pytest.mark.parametrize("name", ["a[0-9]b*?", "{x,y}", 'it\'s "so"', "new\nline", "per%cent$(x)"])
def test_a_workspace_may_be_called_anything(tmp_path: Path, name: str) -> None:
    write_jsonl(tmp_path / "in.jsonl", sums(5))
    rolloutops(
        "collect", "--input=in.jsonl", f"--data={name}", "--engine=scripted", "--environment=exact_match", cwd=tmp_path
    )
    for words in (
        ["status"],
        ["verify"],
        ["export", f"--output={name}/o.jsonl"],
        ["metrics", f"--report={name}/r.html"],
    ):
        rolloutops(*words, f"--data={name}", cwd=tmp_path)
    found = rolloutops("sql", f"--data={name}", "--csv", "SELECT count(*) FROM rollouts", cwd=tmp_path)
    assert found.stdout.split() == ["count_star()", "5"]
    assert (tmp_path / name / "o.jsonl").read_text().count("\n") == 5


def test_names_that_are_not_utf8_are_refused_in_a_sentence(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"odd\xff")
    write_jsonl(odd / "in.jsonl", sums(2))
    write_jsonl(tmp_path / "inputs" / os.fsdecode(b"in\xff.jsonl"), [{**row, "response": "5"} for row in sums(2)])
    write_jsonl(tmp_path / "in.jsonl", sums(2))
    collect = ["collect", "--engine=scripted", "--environment=exact_match"]
    for words, cwd in (
        ([*collect, "--input=in.jsonl", "--data=" + os.fsdecode(b"w\xff")], tmp_path),
        ([*collect, "--input=in.jsonl", "--data=w"], odd),
        ([*collect, "--input=inputs", "--data=w"], tmp_path),
        (["status", "--data=" + os.fsdecode(b"w\xff")], tmp_path),
        (["chunk", os.fsdecode(b"r\xff.toml")], tmp_path),
        (["import", "inputs", "--data=v"], tmp_path),
    ):
        said = rolloutops(*words, cwd=cwd, code=2).stderr
        assert "is not UTF-8 text" in said
        assert r"\xff" in said

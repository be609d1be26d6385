"""What people say of rollouts: the command, the POST, and what steps, builds, merges and rewards make of it."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import query, read_jsonl, rolloutops, sums, write_jsonl
from tests.viewer import Viewer, collect, viewing

DATA = "data/viewed"


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("labeled")
    collect(made, tasks=6)
    return made


@pytest.fixture
def folder(collected: Path, tmp_path: Path) -> Path:
    """A workspace of its own for a test."""
    shutil.copytree(collected, tmp_path / "w")
    return tmp_path / "w"


def label(folder: Path, *words: str, code: int = 0, **more: str) -> str:
    done = rolloutops("label", *words, f"--data={DATA}", cwd=folder, code=code, ROLLOUTOPS_AUTHOR="ann", **more)
    return done.stdout + done.stderr


def attempts(folder: Path, where: str = "true") -> list[str]:
    rows = query(
        folder / DATA, f"SELECT attempt_id FROM rollouts WHERE {where} ORDER BY policy, task_id, rollout_index"
    )
    return [attempt_id for (attempt_id,) in rows]


def said(folder: Path, attempt_id: str) -> tuple[Any, ...]:
    [row] = query(
        folder / DATA, f"SELECT label, label_score, label_note FROM rollouts WHERE attempt_id = '{attempt_id}'"
    )
    return row


def send(viewer: Viewer, body: Any, **headers: str) -> dict[str, Any]:
    """Change a label as the viewer's page does."""
    sent = {"Origin": viewer.address, "X_Rolloutops": "1", "Cookie": viewer.cookie(), **headers}
    status, _, answer = viewer.ask("/api/label", "POST", json.dumps(body).encode(), **sent)
    assert status == 200, answer
    return dict(json.loads(answer))


def test_the_newest_label_counts_and_keeps_what_it_does_not_name(folder: Path) -> None:
    one, other = attempts(folder)[:2]
    assert "label 'good', score 0.5, by ann" in label(folder, one, "--label=good", "--score=0.5")
    label(folder, one, "--note=slow but right")
    label(folder, one, "--label=bad reasoning", "--author=bob")
    assert said(folder, one) == ("bad reasoning", 0.5, "slow but right")
    assert said(folder, other) == (None, None, None)
    label(folder, one, "--score=null")
    assert said(folder, one) == ("bad reasoning", None, "slow but right")
    assert "unchanged" in label(folder, one, "--label=bad reasoning")
    assert query(folder / DATA, "SELECT author, count(*) FROM label_log GROUP BY ALL ORDER BY ALL") == [
        ("ann", 3),
        ("bob", 1),
    ]
    assert "withdrawn" in label(folder, one, "--withdraw")
    assert said(folder, one) == (None, None, None)
    assert query(folder / DATA, "SELECT count(*) FROM labels") == [(0,)]


def test_a_label_belongs_to_the_attempt_and_may_be_of_a_failed_one(folder: Path) -> None:
    [(failed,), *_] = query(
        folder / DATA, "SELECT attempt_id FROM attempts WHERE error IS NOT NULL ORDER BY attempt_id"
    )
    label(folder, failed, "--label=endpoint down")
    assert query(folder / DATA, "SELECT attempt_id, label FROM labels") == [(failed, "endpoint down")]
    assert query(folder / DATA, "SELECT count(*) FROM rollouts WHERE label IS NOT NULL") == [(0,)]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--label=x",), "needs a rollout"),
        (("sums",), "needs a label, a score or a note"),
        (("sums", "--label=x"), "fits"),
        (("nothing", "--label=x"), "no rollout is named"),
        (("--where=true) OR (true", "--label=x"), "one condition"),
        (("sums/7/careful/99", "--label=x"), "no rollout is named"),
        (("sums/1/careful/1x", "--label=x"), "no rollout is named"),
        (("--where=reward = 7", "--label=x"), "no rollout matches"),
        (("--where=nonsense = 1", "--label=x"), "nonsense"),
        (("--where=", "--label=x"), "one condition"),
        (("sums", "--score=nan"), "a number"),
        (("sums", f"--label={'x' * 201}"), "201"),
        (("sums", "--label=two\nlines"), "one line"),
        (("sums", "--label=x", "--withdraw"), "as a whole"),
    ],
)
def test_a_label_that_is_none_is_a_sentence(collected: Path, words: tuple[str, ...], why: str) -> None:
    assert why in label(collected, *words, code=2)


STEPS = """
[[steps]]
kind = "filter"
name = "read"
use = "filter/labels"
keep = ["good"]
min_score = 0.5

[[steps]]
kind = "build"
name = "train"
use = "build/sft_messages"
min_reward = 0
"""


def test_labels_flow_into_a_build(folder: Path) -> None:
    recipe = folder / "recipe.toml"
    recipe.write_text(recipe.read_text().partition("[[steps]]")[0] + STEPS, encoding="utf-8")
    label(folder, "--where=policy = 'careful' AND rollout_index = 0", "--label=good", "--score=1")
    label(folder, "--where=policy = 'careful' AND rollout_index = 1", "--label=good", "--score=0")
    label(folder, "--where=policy = 'bold'", "--label=bad", "--score=1")
    rolloutops("build", "recipe.toml", cwd=folder)
    assert len(read_jsonl(folder / DATA / "exports" / "train" / "train.jsonl")) == 6
    label(folder, "--where=policy = 'careful' AND rollout_index = 1", "--score=0.5")
    rolloutops("build", "recipe.toml", cwd=folder)
    assert len(read_jsonl(folder / DATA / "exports" / "train" / "train.jsonl")) == 12
    words = ("show", "--where=label = 'bad'", f"--data={DATA}", "--limit=null")
    shown = json.loads(rolloutops(*words, "--json", cwd=folder).stdout)
    assert [(one["label"]["score"], one["label"]["author"]) for one in shown] == [(1, "ann")] * 18
    assert "label: bad" in rolloutops(*words, cwd=folder).stdout


HUMAN = """
data = "data/human"

[datasets.sums]
input = "sums.jsonl"
environment = "exact_match"
verifier = "human"

[datasets.others]
input = "others.jsonl"
environment = "exact_match"

[collect]
engine = "scripted"
policy = "p"
"""


def test_a_score_is_a_reward_only_where_the_recipe_says_so(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "sums.jsonl", sums(3))
    write_jsonl(tmp_path / "others.jsonl", sums(3, seed=1))
    recipe = tmp_path / "human.toml"
    recipe.write_text(HUMAN, encoding="utf-8")

    def rewards() -> dict[str, list[tuple[float | None, str | None]]]:
        text = "SELECT dataset, reward, verifier FROM rollouts ORDER BY dataset, task_id"
        rows = query(tmp_path / "data" / "human", text)
        return {name: [tuple(row[1:]) for row in rows if row[0] == name] for name in ("sums", "others")}  # type: ignore[misc]

    rolloutops("run", "human.toml", cwd=tmp_path)
    before = rewards()
    assert before["sums"] == [(None, None)] * 3
    assert {verifier for _, verifier in before["others"]} == {"exact_match"}
    said = rolloutops("verify", "human.toml", cwd=tmp_path).stderr
    assert "sums: 3 rollouts without a person's score" in said
    rolloutops("label", "--where=true", "human.toml", "--score=0.25", cwd=tmp_path)
    after = rewards()
    assert after["sums"] == [(0.25, "human")] * 3
    assert after["others"] == before["others"], "another dataset's verdicts stay"
    rolloutops("label", "--where=dataset = 'sums'", "human.toml", "--score=0.75", cwd=tmp_path)
    assert rewards()["sums"] == [(0.75, "human")] * 3
    rolloutops("compact", "human.toml", cwd=tmp_path)
    assert rewards()["sums"] == [(0.75, "human")] * 3
    status = json.loads(rolloutops("status", "human.toml", "--json", cwd=tmp_path).stdout)
    assert "0.75" in json.dumps(status)
    metrics = rolloutops("metrics", "human.toml", cwd=tmp_path).stdout
    assert "0.75" in metrics
    rolloutops("label", "--where=dataset = 'sums'", "human.toml", "--withdraw", cwd=tmp_path)
    assert rewards() == before
    # Without the key the environment verifies again, and what people said is no reward any more.
    rolloutops("label", "--where=dataset = 'sums'", "human.toml", "--score=0.75", cwd=tmp_path)
    recipe.write_text(HUMAN.replace('verifier = "human"', ""), encoding="utf-8")
    rolloutops("verify", "human.toml", cwd=tmp_path)
    assert {verifier for _, verifier in rewards()["sums"]} == {"exact_match"}
    assert {reward for reward, _ in rewards()["sums"]} <= {0.0, 1.0}


def test_workspaces_with_labels_merge_and_compact(folder: Path) -> None:
    one, other, third = attempts(folder)[:3]
    shutil.copytree(folder / DATA, folder / "elsewhere")
    label(folder, one, "--label=here")
    label(folder, other, "--label=here")
    rolloutops("label", other, "--label=there, later", "--data=elsewhere", cwd=folder)
    rolloutops("label", third, "--label=there", "--data=elsewhere", cwd=folder)
    for _ in range(2):  # the second time there is nothing to do
        rolloutops("merge", DATA, "elsewhere", cwd=folder)
        assert [said(folder, name)[0] for name in (one, other, third)] == ["here", "there, later", "there"]
    rolloutops("compact", f"--data={DATA}", cwd=folder)
    assert len(list((folder / DATA / "labels" / "sums").glob("*.parquet"))) == 1
    assert [said(folder, name)[0] for name in (one, other, third)] == ["here", "there, later", "there"]
    rolloutops("merge", DATA, "elsewhere", cwd=folder)
    label(folder, third, "--label=last")
    assert [said(folder, name)[0] for name in (one, other, third)] == ["here", "there, later", "last"]
    assert query(folder / DATA, "SELECT count(*), count(DISTINCT label_id) FROM label_log") == [(5, 5)]


def test_a_workspace_of_an_older_version_has_no_labels(folder: Path) -> None:
    shutil.rmtree(folder / DATA / "labels", ignore_errors=True)
    assert query(folder / DATA, "SELECT count(*) FROM rollouts WHERE label IS NULL") == [(36,)]
    rolloutops("compact", f"--data={DATA}", cwd=folder)
    label(folder, attempts(folder)[0], "--label=good")
    assert query(folder / DATA, "SELECT count(*) FROM rollouts WHERE label IS NULL") == [(35,)]


def test_check_finds_a_damaged_part(folder: Path) -> None:
    label(folder, "--where=true", "--label=good")
    [part] = (folder / DATA / "labels" / "sums").glob("*.parquet")
    content = bytearray(part.read_bytes())
    content[60] ^= 0xFF
    part.write_bytes(content)
    done = rolloutops("check", "--deep", "recipe.toml", cwd=folder, code=2)
    assert f"{part.name} is damaged" in done.stdout + done.stderr
    assert "36 labels" in done.stdout + done.stderr


@pytest.fixture(scope="module")
def viewer(collected: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Viewer, Path]]:
    own = tmp_path_factory.mktemp("view") / "w"
    shutil.copytree(collected, own)
    with viewing(own, "recipe.toml") as running:
        yield running, own


def test_a_post_labels_and_the_pages_show_it_at_once(viewer: tuple[Viewer, Path]) -> None:
    running, folder = viewer
    number = running.get("moment")["number"]
    one = attempts(folder)[3]
    answer = send(running, {"of": "sums", "attempt": one, "label": "odd", "score": 0.5})
    assert (answer["now"]["label"], answer["now"]["score"], answer["now"]["note"]) == ("odd", 0.5, None)
    assert said(folder, one) == ("odd", 0.5, None)
    assert {"value": "odd", "rollouts": 1} in running.get("totals")["facets"]["label"]
    assert [row["attempt_id"] for row in running.rows(label="odd")] == [one]
    assert [row["attempt_id"] for row in running.rows(where="label_note IS NULL AND label = 'odd'")] == [one]
    send(running, {"of": "sums", "attempt": one, "note": "see step 2"})
    assert [row["attempt_id"] for row in running.rows(where="label_note = 'see step 2'")] == [one]
    assert running.get("moment")["number"] > number
    label(folder, one, "--label=from the terminal")
    assert running.get("labels", of="sums", attempt=one)["now"]["label"] in ("odd", "from the terminal")
    answer = send(running, {"of": "sums", "attempt": one, "withdraw": True})
    assert answer["now"] is None
    assert said(folder, one) == (None, None, None)


def test_many_labels_do_not_become_many_files(folder: Path) -> None:
    names = attempts(folder)
    with viewing(folder, "recipe.toml") as running:
        for round_ in range(4):
            for name in names:
                send(running, {"of": "sums", "attempt": name, "score": round_})
        assert {row["label_score"] for row in running.rows()} == {3}
    label(folder, names[0], "--label=last")
    assert len(list((folder / DATA / "labels" / "sums").glob("*.parquet"))) < 64
    assert query(folder / DATA, "SELECT count(*), count(DISTINCT label_id) FROM label_log") == [(145, 145)]
    assert query(folder / DATA, "SELECT count(*) FROM rollouts WHERE label_score = 3") == [(36,)]


def test_only_a_post_of_the_page_labels(viewer: tuple[Viewer, Path]) -> None:
    running, folder = viewer
    count = "SELECT count(*) FROM label_log"
    before = query(folder / DATA, count)
    one = attempts(folder)[5]
    body = json.dumps({"of": "sums", "attempt": one, "label": "stolen"}).encode()
    good = {"Origin": running.address, "X_Rolloutops": "1", "Cookie": running.cookie()}
    for change, status in (
        ({"X_Rolloutops": ""}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Cookie": "x=y"}, 401),
        ({"Host": "evil.example"}, 421),
    ):
        assert running.ask("/api/label", "POST", body, **{**good, **change})[0] == status
    assert running.ask(f"/api/label?of=sums&attempt={one}&label=stolen", **good)[0] == 405
    assert running.ask(f"/api/labels?of=sums&attempt={one}&label=stolen", **good)[0] == 200
    assert running.ask("/api/labels", "POST", body, **good)[0] == 405
    assert running.ask("/api/label", "PUT", body, **good)[0] == 405
    assert running.ask("/api/label", "POST", b" " * (2 << 20), **good)[0] == 413
    assert query(folder / DATA, count) == before


def test_a_rollout_that_was_forgotten_meanwhile_is_not_labeled(folder: Path) -> None:
    with viewing(folder) as running:  # which finds the workspace
        for one in attempts(folder)[:3]:  # the viewer may look at the workspace between the two
            where = f"--where=attempt_id = '{one}'"
            rolloutops("forget", f"--data={DATA}", where, "--yes", cwd=folder)
            assert one in send(running, {"of": "sums", "attempt": one, "label": "x"})["error"]
    assert query(folder / DATA, "SELECT count(*) FROM label_log") == [(0,)]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, "needs a label, a score or a note"),
        ({"label": 3}, "text label"),
        ({"score": "high"}, "number score"),
        ({"score": True}, "number score"),
        ({"score": float("inf")}, "finite"),
        ({"note": "x" * 20_001}, "20,001"),
        ({"label": "\ud800"}, "UTF-8"),
        ({"reward": 1}, "reward"),
        ({"label": "x", "withdraw": True}, "as a whole"),
        ({"attempt": "none", "label": "x"}, "no rollout none"),
        ({"of": "../jobs", "label": "x"}, "no rollout"),
        ({"of": None, "label": "x"}, "of and attempt"),
    ],
)
def test_a_wrong_change_is_a_sentence(viewer: tuple[Viewer, Path], change: dict[str, Any], why: str) -> None:
    running, folder = viewer
    answer = send(running, {"of": "sums", "attempt": attempts(folder)[6], **change})
    assert why in answer["error"]


def test_a_viewed_file_has_no_place_for_labels(folder: Path) -> None:
    rolloutops("export", "recipe.toml", "--output=out.jsonl", cwd=folder)
    with viewing(folder, "out.jsonl") as running:
        row = running.rows()[0]
        answer = send(running, {"of": row["dataset"], "attempt": row["attempt_id"], "label": "x"})
        assert "rolloutops import" in answer["error"]


def test_two_viewers_a_terminal_and_a_collection_write_at_once(folder: Path) -> None:
    """Of one rollout each changes another thing, and all of it is there; each row is there."""
    names = attempts(folder)
    with viewing(folder, "recipe.toml") as one, viewing(folder, "recipe.toml") as two:

        def work(running: Viewer, change: str, value: Any) -> None:
            for name in names[:12]:
                send(running, {"of": "sums", "attempt": name, change: value})

        others = [
            threading.Thread(target=work, args=(one, "label", "seen")),
            threading.Thread(target=work, args=(two, "score", 0.5)),
            threading.Thread(target=label, args=(folder, "--where=true", "--note=all")),
            threading.Thread(
                target=rolloutops, args=("collect", "recipe.toml", "--num_repeats=4"), kwargs={"cwd": folder}
            ),
        ]
        for thread in others:
            thread.start()
        for thread in others:
            thread.join()
    assert {said(folder, name) for name in names[:12]} == {("seen", 0.5, "all")}
    assert query(folder / DATA, "SELECT count(*) = count(DISTINCT label_id) FROM label_log") == [(True,)]
    assert query(folder / DATA, "SELECT count(*) FROM rollouts") == [(48,)]


def test_what_was_answered_as_saved_survives_a_kill(folder: Path) -> None:
    names = attempts(folder)
    with viewing(folder, "recipe.toml") as running:
        for name in names[:7]:
            send(running, {"of": "sums", "attempt": name, "label": "safe"})
        running.process.kill()
        running.process.wait()
    assert attempts(folder, "label = 'safe'") == names[:7]
    with viewing(folder, "recipe.toml") as again:
        assert {"value": "safe", "rollouts": 7} in again.get("totals")["facets"]["label"]


@pytest.mark.parametrize("spot", ["part-before-sync", "part-before-rename", "part-after-rename"])
def test_a_label_is_written_whole_or_not_at_all(folder: Path, spot: str) -> None:
    done = rolloutops(
        "label", "--where=true", "--label=good", f"--data={DATA}", cwd=folder, code=-9, ROLLOUTOPS_FAILPOINT=spot
    )
    assert "label 'good'" not in done.stdout
    assert len(attempts(folder, "label = 'good'")) == (36 if spot == "part-after-rename" else 0)
    label(folder, "--where=true", "--label=better")
    assert len(attempts(folder, "label = 'better'")) == 36

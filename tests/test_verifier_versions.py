"""A verifier's version, what verdicts of earlier commits mean, and what waits where verifying again would spend."""

from __future__ import annotations

import re
import tarfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from rolloutops.config.plugins import BUILT_IN, find
from rolloutops.config.recipe_file import load
from tests.helpers import CHECKOUT, query, read_jsonl, rolloutops, sums, write_jsonl

OLD = CHECKOUT / "tests" / "workspaces" / "79c45b0"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace that commit 79c45b0 filled, with its recipe and inputs."""
    for path in OLD.iterdir():
        if path.suffix != ".xz":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with tarfile.open(OLD / "w.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_workspace_of_79c45b0_has_nothing_to_judge_but_what_has_other_rewards_now(old: Path) -> None:
    recipe = load("recipe.toml")
    assert query(old / "w", "SELECT dataset, count(*) FROM unverified GROUP BY ALL", recipe) == [("mcqa", 1)]
    rewards = "SELECT dataset, count(reward), count(DISTINCT verifier_version) FROM rollouts GROUP BY ALL ORDER BY ALL"
    before = query(old / "w", rewards, recipe)
    assert [count for name, count, _ in before if name != "mcqa"] == [1, 2, 2, 2, 1, 2, 2]
    done = rolloutops("verify", "recipe.toml", "--unsafe_code", cwd=old)
    assert "mcqa: mcqa has a new version (0cc25d752e32 -> 2-" in done.stderr
    assert "1 rollout verified" in done.stderr
    assert all(versions == 1 for _, _, versions in query(old / "w", rewards, recipe))
    # A verdict of today beside one of that commit, and both are of one version.
    rolloutops("collect", "recipe.toml", "--num_repeats=2", "--dataset=own,exact_match", cwd=old)
    names = "SELECT count(*), count(reward), count(DISTINCT verifier_version) FROM rollouts WHERE dataset = '{}'"
    for name in ("own", "exact_match"):
        assert query(old / "w", names.format(name), recipe) == [(4, 4, 1)]
        reported = f"SELECT count(DISTINCT verifier_version) FROM verdicts WHERE dataset = '{name}'"
        assert query(old / "w", reported, recipe) == [(2,)]
    agreement = rolloutops("metrics", "recipe.toml", "--step=agreement", cwd=old).stdout
    assert "mcqa" in agreement
    assert "exact_match" not in agreement, "names of one version are not compared"


@pytest.mark.parametrize(
    ("name", "settings", "version"),
    [
        ("exact_match", {"ignore_case": True}, "64e2cf9f56e3"),
        ("exact_match", {"extract": "(\\d+)"}, "d8abe5e46f8f"),
        ("math", {"digits": 3}, "10a118b7a2c5"),
        ("multi_step", {"max_results": 2}, "117c668ed864"),
        ("code", {"partial": True}, "70b2c43113ca"),
        ("remote", {"url": "http://localhost:8000", "headers": {"x": "1"}}, "c7daf094664b"),
        ("llm_judge", {"engine": "openai", "model": "m", "engine_args": {"base_url": "http://y"}}, "e7e4fa7d571c"),
        ("mcqa", {"strict": True}, None),
        ("reasoning_gym", {}, None),
    ],
)
def test_hashes_of_79c45b0_are_known_for_any_settings(
    name: str, settings: dict[str, Any], version: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Literal: what that commit called these verifiers, with every package at version 1.0."""
    monkeypatch.setattr(metadata, "version", lambda package: "1.0")
    plugin = find("environment", name)
    assert plugin.equal_versions(settings) == ([version] if version else [])
    assert plugin.version(settings).startswith("1-" if version else "2-")
    assert plugin.version(settings) != plugin.version({**settings, "more": 1})


def test_every_shipped_environment_has_a_version_and_other_packages_are_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {name: find("environment", name).version({}) for name in BUILT_IN["environment"]}
    assert all(int(version.partition("-")[0]) >= 1 for version in before.values())
    monkeypatch.setattr(metadata, "version", lambda package: "0.0.1")
    changed = {name for name, version in before.items() if find("environment", name).version({}) != version}
    assert changed == {"math", "reasoning_gym"}


OWN = '''
"""Verify the last word."""
import helper

LIMIT = 3
"""How much."""

class Own:
    """Own."""
    def verify(self, task, rollout):
        """Look."""
        return helper.right(rollout.text)  # right or wrong

def make(): return Own()
'''


def test_a_custom_verifier_is_its_syntax_tree(tmp_path: Path) -> None:
    def version(code: str) -> str:
        (tmp_path / "own.py").write_text(code)
        return find("environment", "own.py", tmp_path).version({})

    (tmp_path / "helper.py").write_text('"""Help."""\ndef right(text): return 1.0\n')
    first = version(OWN)
    same = {
        "docstrings": OWN.replace("Look.", "Look again.").replace('"""Own."""', "pass").replace("    pass\n", ""),
        "a comment and layout": OWN.replace("  # right or wrong", "").replace("(self, task, ", "(self,\n  task, "),
        "a text that stands alone": OWN.replace('"""How much."""\n', ""),
        "quotes": OWN.replace('"""', "'''"),
    }
    assert {what: version(code) for what, code in same.items()} == dict.fromkeys(same, first)
    other = {
        "a constant": OWN.replace("LIMIT = 3", "LIMIT = 3.0"),
        "a name": OWN.replace("helper.right", "helper.wrong"),
        "a default": OWN.replace("def make()", "def make(more=None)"),
    }
    assert first not in {version(code) for code in other.values()}
    (tmp_path / "helper.py").write_text("# Help.\ndef right(text):\n    return 1.0\n")
    (tmp_path / "unrelated.py").write_text("x = 1\n")
    (tmp_path / "json.py").write_text("x = 1\n")
    assert version(OWN) == first
    assert version(OWN + "import json\n") == version(OWN + "import json  # the standard library's\n")
    (tmp_path / "helper.py").write_text("def right(text): return 0.0\n")
    assert version(OWN) != first
    # A docstring that the code reads is code.
    reads = OWN + "PROMPT = __doc__\n"
    assert version(reads) != version(reads.replace("Verify the last word", "Verify the first word"))


SPENDING = """
class Own:
    {more}
    def verify(self, task, rollout):
        return {{"reward": {reward}, "judge_calls": 1, "judge_input_tokens": 1000, "judge_output_tokens": 100,
            "judge_model": "j"}}
def make(): return Own()
"""
RECIPE = """
data = "w"
[datasets.sums]
input = "sums.jsonl"
environment = "own.py"
[datasets.plain]
input = "sums.jsonl"
environment = "plain.py"
[collect]
engine = "scripted"
prices = "prices.toml"
[metrics]
steps = ["metrics/rewards"]
[[steps]]
kind = "filter"
name = "good"
use = "filter/finished"
[[steps]]
kind = "build"
name = "sft"
use = "build/sft_messages"
output = "out/train.jsonl"
min_reward = 0.2
"""


def write(folder: Path, reward: float, more: str = "spends = True") -> None:
    (folder / "own.py").write_text(SPENDING.format(reward=reward, more=more))
    (folder / "plain.py").write_text(SPENDING.format(reward=reward, more="x = 0"))


REWARDS = "SELECT dataset, count(*), count(reward), min(reward), max(reward) FROM rollouts GROUP BY ALL ORDER BY ALL"


def test_a_changed_verifier_that_spends_waits_for_the_command_and_no_table_mixes_versions(tmp_path: Path) -> None:
    write(tmp_path, 0.25)
    write_jsonl(tmp_path / "sums.jsonl", sums(5))
    (tmp_path / "own.toml").write_text(RECIPE)
    (tmp_path / "prices.toml").write_text('["j"]\ninput = 100\noutput = 1000\n["scripted"]\ninput = 0\noutput = 0\n')
    rolloutops("run", "own.toml", cwd=tmp_path)
    versions = "SELECT DISTINCT verifier_version FROM verdicts WHERE dataset = 'sums'"
    ((before,),) = query(tmp_path / "w", versions, load(str(tmp_path / "own.toml")))

    write(tmp_path, 0.75)
    write_jsonl(tmp_path / "sums.jsonl", sums(7))
    done = rolloutops("run", "own.toml", cwd=tmp_path, code=2)
    recipe = load(str(tmp_path / "own.toml"))
    assert "plain: plain.py has a new version" in done.stderr, "that it is verified again is said"
    assert "for 5 rollouts: they are verified again" in done.stderr
    assert done.stderr.count("run the command verify for them") == 1
    assert "out/train.jsonl" not in done.stdout
    found = [("plain", 7, 7, 0.75, 0.75), ("sums", 7, 2, 0.75, 0.75)]
    assert query(tmp_path / "w", REWARDS, recipe) == found, "what was collected just now is verified as ever"
    for command in (["metrics"], ["filter"], ["build"], ["export"], ["metrics", "--step=rewards"]):
        (line,) = rolloutops(command[0], "own.toml", *command[1:], cwd=tmp_path, code=2).stderr.splitlines()
        assert f"sums: own.py has a new version ({before} -> " in line
        assert "for 5 rollouts: last time, this took 5 calls with 5,000 input and 500 output tokens" in line
        assert "about 1.0000 by the price table" in line
        assert "rolloutops verify own.toml; " in line
        assert f"--verdict_version={before}" in line

    refused = rolloutops("collect", "own.toml", "--output=o.jsonl", cwd=tmp_path, code=2)
    assert '"reward": 0.75' in refused.stdout, "the averages of what was collected are printed anyway"
    assert not (tmp_path / "o.jsonl").exists()
    (advice,) = re.findall(r"--verdict_version=\S+", refused.stderr)
    rolloutops("collect", "own.toml", "--output=o.jsonl", advice, cwd=tmp_path)
    rewards = [row["reward"] for row in read_jsonl(tmp_path / "o.jsonl")]
    assert sorted(map(str, rewards)) == ["0.25"] * 5 + ["0.75"] * 7 + ["None"] * 2, (
        "what collect advises, collect takes"
    )

    pinned = rolloutops(
        "metrics", "own.toml", "--step=rewards", "--json", f"--verdict_version={before[:7]}", cwd=tmp_path
    )
    assert '"dataset":"sums","policy":"scripted","metric":"reward","rollouts":7,"coverage":0.7143,"mean":0.25' in (
        pinned.stdout
    )
    assert f"sums: 2 rollouts without a verdict of {before}, so without a reward" in pinned.stderr
    done = rolloutops("run", "own.toml", f"--verdict_version={before}", cwd=tmp_path)
    assert "have a verdict" not in done.stderr, "two have none of this version"
    assert f"Nothing to verify: --verdict_version selects the verdicts of {before} in sums" in done.stderr
    assert query(tmp_path / "w", REWARDS, recipe) == found, "nothing was verified for it"
    rolloutops("build", "own.toml", f"--verdict_version={before}", cwd=tmp_path)
    wrong = rolloutops("metrics", "own.toml", "--verdict_version=zz", cwd=tmp_path, code=2).stderr
    assert "--verdict_version=zz matches no verdict; available, newest first: " in wrong

    assert "for 5 rollouts: they are verified again" in rolloutops("verify", "own.toml", cwd=tmp_path).stderr
    assert query(tmp_path / "w", REWARDS, recipe) == [("plain", 7, 7, 0.75, 0.75), ("sums", 7, 7, 0.75, 0.75)]
    assert "another version" not in rolloutops("build", "own.toml", cwd=tmp_path).stderr


def test_the_earlier_versions_of_several_verifiers_are_named_by_dataset(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "sums.jsonl", sums(3))
    (tmp_path / "prices.toml").write_text('["j"]\ninput = 100\noutput = 1000\n["scripted"]\ninput = 0\noutput = 0\n')
    for reward in (0.25, 0.75):
        write(tmp_path, reward)
        (tmp_path / "plain.py").write_text(SPENDING.format(reward=reward + 0.1, more="spends = True"))
        (tmp_path / "own.toml").write_text(RECIPE)
        done = rolloutops("run", "own.toml", cwd=tmp_path, code=0 if reward == 0.25 else 2)
    assert done.stderr.count("run the command verify for them") == 2, "once for each dataset"
    (advice,) = re.findall(r"--verdict_version=\S+", done.stderr)
    assert re.fullmatch(r"--verdict_version=plain=\w+,sums=\w+", advice)
    rolloutops("build", "own.toml", advice, cwd=tmp_path)
    metrics = ("metrics", "own.toml", "--step=rewards", "--json")
    reported = rolloutops(*metrics, advice.replace("=plain=", "="), cwd=tmp_path).stdout
    assert '"mean":0.25' in reported
    assert '"mean":0.34' in reported, "0.35 but for the last digit"
    one = rolloutops(*metrics, advice.partition(",")[0], cwd=tmp_path, code=2).stderr
    assert "sums: own.py has a new version" in one, "the other one still waits"
    assert "plain: " not in one
    version = advice.rpartition("=")[2]
    wrong = rolloutops(*metrics, f"--verdict_version=plain={version}", cwd=tmp_path, code=2).stderr
    assert f"--verdict_version=plain={version} matches no verdict of plain; available" in wrong
    twice = rolloutops(*metrics, f"{advice.replace('sums=', 'plain=')}", cwd=tmp_path, code=2).stderr
    assert "matches no verdict of plain" in twice


def test_what_a_changed_judge_would_cost_without_prices_and_metrics_of_a_cheap_one(old: Path) -> None:
    text = (old / "recipe.toml").read_text()
    (old / "recipe.toml").write_text(text.replace("a-judge", "b-judge").replace("{ bonus = 0.5 }", "{ bonus = 1.0 }"))
    done = rolloutops("metrics", "recipe.toml", cwd=old, code=2)
    assert "llm_judge: llm_judge has a new version (9821aadac2e8 -> 1-" in done.stderr
    assert "2 calls with 192 input and 12 output tokens, their price is not known" in done.stderr
    (old / "recipe.toml").write_text(text.replace("{ bonus = 0.5 }", "{ bonus = 1.0 }"))
    cheap = rolloutops("metrics", "recipe.toml", cwd=old)
    assert "own: own.py has a new version" in cheap.stderr
    assert "for 2 rollouts: without a reward until verify has run" in cheap.stderr

"""The built package: installed into an empty environment without extras, it does its work from an empty folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.helpers import CHECKOUT

OFFLINE = re.compile(
    r"dns error|failed to (fetch|lookup)|connect(ion)? (error|refused|timed)|name resolution", re.IGNORECASE
)


def run(*words: str | Path, cwd: Path, code: int = 0) -> str:
    """Run a program without what the tests' own environment holds; what it printed."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "OPENAI_API_KEY")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env=env, capture_output=True, text=True, timeout=1800, check=False
    )
    said = done.stdout + done.stderr
    if done.returncode and OFFLINE.search(said):
        pytest.skip(f"no package index can be reached: {said.strip().splitlines()[-1]}")
    assert done.returncode == code, f"{' '.join(map(str, words))}: exit {done.returncode}\n{said}"
    assert "Traceback" not in said, said
    return said


def build(into: Path) -> None:
    """An sdist, and from it a wheel."""
    if uv := find_uv():
        run(uv, "build", "--quiet", CHECKOUT, "--out-dir", into, cwd=into.parent)
    else:
        run(sys.executable, "-m", "build", CHECKOUT, "--outdir", into, cwd=into.parent)


def install(wheel: Path, env: Path) -> None:
    """A new virtual environment with the wheel and what it needs, but no extra."""
    if uv := find_uv():
        run(uv, "venv", "--quiet", "--python", sys.executable, env, cwd=env.parent)
        run(uv, "pip", "install", "--quiet", "--python", env, wheel, cwd=env.parent)
    else:
        run(sys.executable, "-m", "venv", env, cwd=env.parent)
        run(env / "bin" / "python", "-m", "pip", "install", "--quiet", wheel, cwd=env.parent)


def find_uv() -> str | None:
    """The one beside this Python, else the one on the PATH."""
    return shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist and the wheel that was built from it."""
    into = tmp_path_factory.mktemp("build") / "dist"
    build(into)
    return into


@pytest.fixture(scope="module")
def program(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed program."""
    env = tmp_path_factory.mktemp("installed") / "env"
    (wheel,) = dist.glob("*.whl")
    install(wheel, env)
    return env / "bin" / "rolloutops"


def test_the_wheel_holds_one_package_and_all_of_it(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"rolloutops"}
    assert not [name for name in names if name.endswith((".pyc", ".env")) or "/tests/" in name]
    for folder, inside in (
        ("rolloutops", ""),
        ("sql", "sql/"),
        ("recipes", "recipes/"),
        ("data/examples", "data/examples/"),
    ):
        files = (path for path in (CHECKOUT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        wanted = {f"rolloutops/{inside}{path.relative_to(CHECKOUT / folder).as_posix()}" for path in files}
        assert wanted
        assert wanted <= names, wanted - names


def test_the_sdist_holds_what_a_checkout_holds(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "Makefile", "pyproject.toml", "sql/views.sql", "tests/test_wheel.py"} <= names
    assert not [name for name in names if name.startswith((".venv", ".git/", "data/demo"))]


def test_help_and_lists(program: Path, tmp_path: Path) -> None:
    assert "collect" in run(program, "--help", cwd=tmp_path)
    assert run(program.with_name("python"), "-m", "rolloutops", "--help", cwd=tmp_path) == run(
        program, "--help", cwd=tmp_path
    )
    listed = run(program, "list", cwd=tmp_path)
    for name in ("demo", "filter/solve_rate", "metrics/pass_at_k", "mix/shares", "build/sft_messages", "vllm", "math"):
        assert name in listed
    assert str(program.parents[1]) in listed, "the SQL and the recipes that are installed"
    assert not list(tmp_path.iterdir())


def test_the_demo_runs_with_a_rehearsal_and_says_what_a_model_needs(program: Path, tmp_path: Path) -> None:
    said = run(program, "run", "demo", "--engine=scripted", "--limit=8", cwd=tmp_path)
    assert "rollouts collected" in said
    assert list((tmp_path / "data/demo/exports").glob("*/manifest.json"))
    missing = run(program, "collect", "demo", "--data=data/demo", "--limit=8", cwd=tmp_path, code=2)
    assert "pip install 'rolloutops[cpu]'" in missing
    copies = run(program, "init", "demo", "--into=mine", cwd=tmp_path).partition("next:")[0].split()
    assert all((tmp_path / path).is_file() for path in copies)
    run(program, "chunk", "recipes/demo.toml", cwd=tmp_path / "mine")


def test_the_tutorial_works_in_an_empty_folder(program: Path, tmp_path: Path) -> None:
    page = (CHECKOUT / "docs" / "tutorial_environment.md").read_text(encoding="utf-8")
    for name, kind in (("roman.py", "python"), ("tasks.jsonl", "json"), ("roman.toml", "toml")):
        block = re.search(rf"`{name}`.*?```{kind}\n(.*?)```", page, re.DOTALL)
        assert block, f"the tutorial no longer shows {name}"
        (tmp_path / name).write_text(block[1], encoding="utf-8")
    run(program, "chunk", "roman.toml", cwd=tmp_path)
    assert "3 of 3 gold answers score 1.0" in run(program, "check", "roman.toml", cwd=tmp_path)
    assert "12 rollouts collected" in run(program, "collect", "roman.toml", cwd=tmp_path)
    counted = run(program, "sql", "SELECT count(reward) AS n FROM rollouts", "--data=data", "--csv", cwd=tmp_path)
    assert counted == "n\n12\n"
    assert "every wanted rollout" in run(program, "status", "--data=data", cwd=tmp_path)

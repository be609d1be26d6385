"""`check`: what a run of the recipe needs, asked of everything that it names, before anything is spent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rolloutops.cli.main import main
from rolloutops.engines.model_list import refuse_unlisted
from rolloutops.errors import EngineError
from tests.helpers import sums, write_jsonl

RECIPE = """data = "w"
[datasets.sums]
input = "tasks.jsonl"
environment = "exact_match"
[collect]
engine = "scripted"
"""


class Listing(BaseHTTPRequestHandler):
    """An endpoint that lists two models, and no model below /bare."""

    def do_GET(self) -> None:
        """GET /v1/models."""
        there = self.path == "/v1/models"
        body = json.dumps({"object": "list", "data": [{"id": "org/small"}, {"id": "large-2026"}]}).encode()
        self.send_response(200 if there else 404)
        self.send_header("Content-Length", str(len(body) if there else 0))
        self.end_headers()
        self.wfile.write(body if there else b"")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def listing() -> Iterator[str]:
    """The address of an endpoint that lists its models."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Listing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tasks, as the working directory."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    write_jsonl(tmp_path / "tasks.jsonl", sums(3))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bad(project: Path, said: pytest.CaptureFixture[str], recipe: str, *flags: str) -> list[str]:
    """What `check` finds wrong with a recipe; none, and exit code 0, where all is right."""
    (project / "recipe.toml").write_text(recipe)
    code = main(["check", "recipe.toml", *flags])
    lines = said.readouterr().out.splitlines()
    wrong = [line.removeprefix("BAD  ") for line in lines if line.startswith("BAD")]
    assert code == (2 if wrong else 0)
    return wrong


def test_it_asks_whether_the_endpoint_has_the_model(
    project: Path, listing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--engine=openai", f"--base_url={listing}/v1")
    for model in ("org/small", "small", "large-2026:nitro"):
        assert bad(project, capsys, RECIPE, *words, f"--model={model}") == []
    (wrong,) = bad(project, capsys, RECIPE, *words, "--model=large-2025")
    assert "has no model 'large-2025', did you mean 'large-2026'?; it has: org/small, large-2026" in wrong
    assert bad(project, capsys, RECIPE, "--engine=openai", f"--base_url={listing}/bare/v1", "--model=any") == []


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"data": []}', b'{"data": [{"id": "a"}], "has_more": true}'])
def test_what_is_not_a_whole_list_says_nothing(body: bytes) -> None:
    refuse_unlisted("m", body, "http://here")
    with pytest.raises(EngineError, match="has no model 'm'"):
        refuse_unlisted("m", b'{"data": [{"id": "a"}]}', "http://here")


def test_it_asks_the_gym_server(project: Path, listing: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bad(project, capsys, RECIPE, "--engine=gym", f"--base_url={listing}") == []
    (wrong,) = bad(project, capsys, RECIPE, "--engine=gym", "--base_url=http://127.0.0.1:9")
    assert wrong.startswith("engine gym: http://127.0.0.1:9/run: ")
    remote = RECIPE.replace('"exact_match"', '"remote"\nenvironment_args = {{ url = "{url}" }}')
    assert bad(project, capsys, remote.format(url=listing)) == []
    (wrong,) = bad(project, capsys, remote.format(url="http://127.0.0.1:9"))
    assert wrong.startswith("sums: environment remote: http://127.0.0.1:9 does not answer: ")


def test_it_looks_at_the_judge(project: Path, listing: str, capsys: pytest.CaptureFixture[str]) -> None:
    def judged(engine: str, more: str = "") -> str:
        place = f'model = "large-2025", engine_args = {{ base_url = "{listing}/v1" }}' if engine != "scripted" else ""
        args = f'engine = "{engine}"{", " if place else ""}{place}{more}'
        return RECIPE.replace('"exact_match"', f'"llm_judge"\nenvironment_args = {{ {args} }}')

    for engine in ("batch", "gym"):
        (wrong,) = bad(project, capsys, judged(engine))
        assert wrong.startswith(f"environment 'llm_judge': the engine '{engine}' does not answer single calls")
    (wrong,) = bad(project, capsys, judged("openai"))
    assert wrong.startswith("sums: the judge's engine: ")
    assert "has no model 'large-2025'" in wrong
    (wrong,) = bad(project, capsys, judged("scripted", ", params = { tempertaure = 0 }"))
    assert wrong.startswith("environment 'llm_judge': params.tempertaure: ")


@pytest.mark.parametrize(
    ("tables", "wrong"),
    [
        (
            '[[steps]]\nkind = "mix"\nname = "m"\nuse = "mix/copies"\ncopies = { sum = 2.0 }\n',
            "[mix.m] copies: no dataset 'sum', did you mean 'sums'?",
        ),
        (
            '[[steps]]\nkind = "filter"\nname = "o"\nuse = "filter/only"\ndatasets = ["sms"]\n',
            "[filter.o] datasets: no dataset 'sms'",
        ),
        (
            '[[steps]]\nkind = "mix"\nname = "m"\nuse = "mix/shares"\nshares = { sums = 0.9 }\n',
            "[mix.m] mix/shares: a check failed for 1 row: shares_add_",
        ),
        (
            '[[steps]]\nkind = "reward"\nname = "r"\nuse = "reward/advantage"\nformula = "grp"\n',
            "[reward.r] reward/advantage: a check failed for 1 row",
        ),
        ('[metrics]\nsteps = ["metrics/mine"]\n', "[metrics.mine] metrics/mine"),
        (
            '[[steps]]\nkind = "filter"\nname = "f"\nuse = "filter/mine"\n'
            '[[steps]]\nkind = "build"\nname = "b"\nuse = "build/sft_messages"\n',
            "[filter.f] filter/mine",
        ),
        ("[collect.responses_create_params]\ntop_k = 1.5\n", "responses_create_params.top_k must be a whole number"),
    ],
)
def test_a_recipe_is_as_right_for_check_as_for_a_dry_run(
    tables: str, wrong: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("metrics", "filter"):
        (project / kind).mkdir()
        (project / kind / "mine.sql").write_text("-- Mine.\nSELECT s.*, s.sugar AS sweet FROM rollouts AS s\n")
    (found,) = bad(project, capsys, RECIPE + tables)
    assert found.startswith(wrong)
    assert main(["run", "recipe.toml", "--dry_run"]) == 2
    assert found in capsys.readouterr().err
    assert not (project / "w").exists()

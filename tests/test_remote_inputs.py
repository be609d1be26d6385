"""Inputs by address, against servers on this machine: fetched once, pinned, announced when they change."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import command, environ, query, rolloutops, sums

pytest.importorskip("obstore", reason="the extra 'hub' is not installed")

ONE, TWO = "a" * 40, "b" * 40


class Server:
    """Files by path, with what was asked of them. A file of `short` ends early; one of `slow` after a while."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.moved: dict[str, str] = {}
        self.short: set[str] = set()
        self.slow: set[str] = set()
        self.requests: list[tuple[str, str, str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.answer(self)

            do_HEAD = do_GET

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        path = to.path
        self.requests.append((to.command, path, to.headers.get("Authorization")))
        if path in self.moved:
            to.send_response(302)
            to.send_header("Location", self.moved[path])
            to.send_header("Content-Length", "0")
            to.end_headers()
            return
        body = self.files.get(path)
        to.send_response(404 if body is None else 200)
        to.send_header("Content-Length", str(len(body or b"")))
        to.send_header("ETag", f'"{hash(body) & 0xFFFFFFFF:08x}"')
        to.send_header("Last-Modified", "Mon, 30 Nov 2026 10:00:00 GMT")
        to.end_headers()
        if to.command == "HEAD" or not body:
            return
        to.wfile.write(body[: len(body) // 2])
        if path in self.slow:
            to.wfile.flush()
            time.sleep(20)
        if path in self.short:
            to.close_connection = True
            return
        to.wfile.write(body[len(body) // 2 :])


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()


def lines(count: int, seed: int = 0) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in sums(count, seed)).encode()


def chunk(tmp_path: Path, server: Server, url: str, code: int = 0, **more: str) -> str:
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": server.url, **more}
    words = ("chunk", f"--input={url}", "--data=w", "--dataset=d")
    return rolloutops(*words, cwd=tmp_path, code=code, **env).stderr


def put_dataset(server: Server, commit: str, files: dict[str, bytes], revision: str = "main") -> None:
    answer = json.dumps({"sha": commit, "siblings": [{"rfilename": name} for name in files]}).encode()
    for name in (revision, commit):
        server.files[f"/api/datasets/org/set/revision/{name}"] = answer
    for name, body in files.items():
        server.files[f"/datasets/org/set/resolve/{commit}/{name}"] = body


def test_a_dataset_of_hugging_face_is_fetched_once_and_pinned_by_its_commit(tmp_path: Path, server: Server) -> None:
    put_dataset(server, ONE, {"data/a.jsonl": lines(3), "data/b.jsonl": lines(2, 1), "README.md": b"# x"})
    said = chunk(tmp_path, server, "hf://datasets/org/set/data/*.jsonl", HF_TOKEN="hf_secret")
    assert "since it was read" not in said
    origins = query(tmp_path / "w", "SELECT DISTINCT origin FROM tasks ORDER BY ALL")
    cache = tmp_path / "cache/rolloutops/inputs/hf/org/set"
    assert origins == [(str(cache / ONE / f"data/{name}.jsonl"),) for name in "ab"]
    assert {token for _, _, token in server.requests} == {"Bearer hf_secret"}
    assert not any(b"hf_secret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    server.requests.clear()
    chunk(tmp_path, server, "hf://datasets/org/set/data/*.jsonl")
    assert [path for _, path, _ in server.requests] == ["/api/datasets/org/set/revision/main"]
    server.requests.clear()
    chunk(tmp_path, server, f"hf://datasets/org/set@{ONE}/data/a.jsonl")
    assert server.requests == [], "a commit that is in the cache asks nothing"


def test_a_change_under_an_unpinned_name_is_announced(tmp_path: Path, server: Server) -> None:
    put_dataset(server, ONE, {"a.jsonl": lines(3)})
    chunk(tmp_path, server, "hf://datasets/org/set/a.jsonl")
    put_dataset(server, TWO, {"a.jsonl": lines(4)})
    said = chunk(tmp_path, server, "hf://datasets/org/set/a.jsonl")
    assert "hf://datasets/org/set/a.jsonl changed since it was read last: 1 of 1 file" in said
    assert query(tmp_path / "w", "SELECT count(*) FROM tasks") == [(4,)]
    chunk(tmp_path, server, f"hf://datasets/org/set@{ONE}/a.jsonl")
    assert query(tmp_path / "w", "SELECT count(*) FROM tasks") == [(3,)], "the earlier commit is still there"
    server.files["/x.jsonl"] = lines(5)
    assert "since it was read" not in chunk(tmp_path, server, f"{server.url}/x.jsonl")
    server.files["/x.jsonl"] = lines(6)
    assert "changed since it was read last" in chunk(tmp_path, server, f"{server.url}/x.jsonl")


def test_a_build_names_the_pin_of_each_fetched_input(tmp_path: Path, server: Server) -> None:
    """And the address at which the file is found as it was: for a dataset of Hugging Face that of its commit."""
    put_dataset(server, ONE, {"data/a.jsonl": lines(3)})
    server.files["/x.jsonl"] = lines(5, 1)
    (tmp_path / "own.jsonl").write_bytes(lines(2, 2))
    inputs = {"hub": "hf://datasets/org/set/data/a.jsonl", "web": f"{server.url}/x.jsonl", "own": "own.jsonl"}
    tables = "".join(f'[datasets.{one}]\ninput = "{at}"\nenvironment = "exact_match"\n' for one, at in inputs.items())
    steps = '[collect]\nengine = "scripted"\n[[steps]]\nkind = "build"\nname = "it"\nuse = "build/slime"\n'
    (tmp_path / "r.toml").write_text(f'data = "w"\n{tables}{steps}')
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": server.url}
    rolloutops("run", "r.toml", cwd=tmp_path, **env)
    built = json.loads((tmp_path / "w/exports/it/manifest.json").read_bytes())
    files = {one["dataset"]: one["files"][0] for one in built["inputs"]}
    pin = f"{hash(server.files['/x.jsonl']) & 0xFFFFFFFF:08x}"
    assert (files["hub"]["address"], files["hub"]["pin"]) == (f"hf://datasets/org/set@{ONE}/data/a.jsonl", ONE)
    assert (files["web"]["address"], files["web"]["pin"]) == (inputs["web"], pin)
    assert "pin" not in files["own"]
    page = (tmp_path / "w/exports/it/README.md").read_text()
    assert f"{inputs['web']} (pin {pin})" in page
    assert str(tmp_path / "cache") not in page
    rolloutops("chunk", f"--input={files['hub']['address']}", "--data=again", cwd=tmp_path, **env)
    assert query(tmp_path / "again", "SELECT count(*) FROM tasks") == [(3,)]


def test_the_token_does_not_follow_a_file_to_another_server(tmp_path: Path, server: Server) -> None:
    put_dataset(server, ONE, {"a.jsonl": lines(3)})
    other = Server()
    other.files["/blob"] = lines(3)
    server.moved[f"/datasets/org/set/resolve/{ONE}/a.jsonl"] = other.url.replace("127.0.0.1", "localhost") + "/blob"
    chunk(tmp_path, server, "hf://datasets/org/set/a.jsonl", HF_TOKEN="hf_secret")
    other.http.shutdown()
    assert {token for _, _, token in other.requests} == {None}


def test_an_object_of_a_store_is_fetched_once(tmp_path: Path, server: Server) -> None:
    server.files["/bucket/k/a.jsonl"] = lines(3)
    keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret!", "AWS_REGION": "us-east-1"}
    keys |= {"AWS_ENDPOINT_URL": server.url, "AWS_ALLOW_HTTP": "true"}
    chunk(tmp_path, server, "s3://bucket/k/a.jsonl", **keys)
    assert query(tmp_path / "w", "SELECT count(*) FROM tasks") == [(3,)]
    server.requests.clear()
    chunk(tmp_path, server, "s3://bucket/k/a.jsonl", **keys)
    assert [method for method, _, _ in server.requests] == ["HEAD"]


def test_a_truncated_download_is_never_seen(tmp_path: Path, server: Server) -> None:
    server.files["/x.jsonl"] = lines(3000)
    server.short.add("/x.jsonl")
    said = chunk(tmp_path, server, f"{server.url}/x.jsonl", code=2)
    assert "/x.jsonl" in said
    assert not list((tmp_path / "cache").rglob("*x.jsonl*"))
    server.short.clear()
    chunk(tmp_path, server, f"{server.url}/x.jsonl")


def test_a_kill_during_a_download_leaves_nothing_that_counts(tmp_path: Path, server: Server) -> None:
    server.files["/x.jsonl"] = lines(300_000)
    server.slow.add("/x.jsonl")
    words = command("chunk", f"--input={server.url}/x.jsonl", "--data=w", "--dataset=d")
    env = environ(XDG_CACHE_HOME=str(tmp_path / "cache"))
    process = subprocess.Popen(words, cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "cache").rglob("*.part")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.slow.clear()
    chunk(tmp_path, server, f"{server.url}/x.jsonl")
    assert [path.name for path in (tmp_path / "cache").rglob("*x.jsonl*")] == ["x.jsonl"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hf://datasets/org/none/a.jsonl", "no such file there"),
        ("hf://org/set/a.jsonl", "write hf://datasets/ORG/NAME/FILE"),
        ("hf://datasets/org/set/*.csv", "no file there that can be read"),
        ("hf://datasets/org/set/../../x.jsonl", "an address cannot hold .."),
        ("ftp://host/a.jsonl", "inputs come from this machine's disk, or from hf, https"),
        ("https://me:pass@host/a.jsonl", "holds a user name or password"),
        ("https://host/a.jsonl?sig=secret", "https://host/a.jsonl: name one file, without a query"),
        ("hf://datasets/org/set/notes.txt", "cannot read .txt"),
    ],
)
def test_an_address_that_cannot_be_is_one_sentence(tmp_path: Path, server: Server, name: str, says: str) -> None:
    put_dataset(server, ONE, {"a.jsonl": lines(1), "notes.txt": b"x"})
    said = chunk(tmp_path, server, name, code=2)
    assert says in said
    assert "secret" not in said
    assert ":pass" not in said

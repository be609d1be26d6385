"""A viewer as a process, and a client that holds its key."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from tests.helpers import command, environ, rolloutops, sums, write_jsonl

RECIPE = """
data = "data/viewed"

[datasets.sums]
input = "sums.jsonl"
environment = "exact_match"

[collect]
engine = "scripted"
num_repeats = 3
max_attempts = 2
token_ids = true

[policies.bold]
engine_args = { token_ids = true, faults = "timeout:0.1" }

[policies.careful]
engine_args = { correct = 0.8, seed = 3, token_ids = true, faults = "server_error:0.1" }

[[steps]]
kind = "filter"
name = "good"
use = "filter/reward"
min_reward = 0.8

[[steps]]
kind = "build"
name = "sft"
use = "build/sft_messages"
"""


def collect(folder: Path, tasks: int = 20) -> Path:
    """A workspace with rollouts, failures and a build; the recipe's path."""
    write_jsonl(folder / "sums.jsonl", sums(tasks))
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    rolloutops("run", "recipe.toml", "--max_failure_rate=1", cwd=folder)
    return recipe


@dataclass(frozen=True)
class Viewer:
    """A running viewer. link: what it printed. port: where it listens. token: its key."""

    link: str
    process: subprocess.Popen[str]

    @property
    def port(self) -> int:
        return urlsplit(self.link).port or 0

    @property
    def token(self) -> str:
        return urlsplit(self.link).query.removeprefix("token=")

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cookie(self) -> str:
        """The cookie that the link sets."""
        status, headers, _ = self.ask(f"/?token={self.token}")
        assert status == 302
        return headers["set-cookie"].split(";")[0]

    def ask(
        self, path: str, method: str = "GET", body: bytes = b"", **headers: str
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send one request exactly as written, and return status, headers and body. Host=… replaces the right one."""
        lines = {"Host": f"127.0.0.1:{self.port}", "Connection": "close"}
        if body or method == "POST":
            lines["Content-Length"] = str(len(body))
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        with socket.create_connection(("127.0.0.1", self.port), timeout=600) as link:
            link.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
            received = b"".join(iter(lambda: link.recv(1 << 16), b""))
        first, _, content = received.partition(b"\r\n\r\n")
        status, *rest = first.decode().split("\r\n")
        found = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        return int(status.split()[1]), found, content

    def get(self, name: str, **params: str | list[str]) -> Any:
        """What an address below /api/ answers."""
        text = urlencode(params, doseq=True, quote_via=quote)
        status, _, body = self.ask(f"/api/{name}?{text}", Cookie=self.cookie())
        assert status == 200, body
        return json.loads(body)

    def rows(self, **params: str | list[str]) -> list[dict[str, Any]]:
        """The first page of rollouts."""
        return list(self.get("rows", **params)["rows"])


@contextmanager
def viewing(folder: Path, *words: str) -> Iterator[Viewer]:
    """Run `view` on a free port while the block runs."""
    process = subprocess.Popen(
        command("view", *words, "--port=0", "--no-open"),
        cwd=folder,
        env=environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    link = process.stdout.readline().strip()
    try:
        assert link.startswith("http://"), process.stderr.read()
        yield Viewer(link, process)
    finally:
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=600)[1]
        assert "Traceback" not in said, said

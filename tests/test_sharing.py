"""Several `collect` processes share a part, however small it is: a server that answers nobody before all have asked."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.helpers import command, environ, query, rolloutops, write_jsonl

PROCESSES = 3
GIVEN = ("--data=w", "--engine=openai", "--endpoint=chat", "--model=m", "--input=tasks.jsonl", "--dataset=d")


class Meeting:
    """Who has asked, and whether answers may go out."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.changed = threading.Condition()
        self.open = False


@contextmanager
def serving(meeting: Meeting) -> Iterator[str]:
    """A server that holds its answers back until the meeting is open."""

    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            with meeting.changed:
                meeting.seen.add(self.headers["x-who"])
                meeting.changed.notify_all()
                meeting.changed.wait_for(lambda: meeting.open)
            choice = {"index": 0, "message": {"role": "assistant", "content": "4"}, "finish_reason": "stop"}
            body = json.dumps({"model": "m", "choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        with meeting.changed:
            meeting.open = True
            meeting.changed.notify_all()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(("tasks", "repeats"), [(20, 1), (1, 12)])
@pytest.mark.parametrize("killed", [False, True])
def test_processes_share_one_part(tmp_path: Path, tasks: int, repeats: int, killed: bool) -> None:
    write_jsonl(tmp_path / "tasks.jsonl", [{"prompt": f"What is {n} + 1?", "answer": "4"} for n in range(tasks)])
    rolloutops("chunk", "--data=w", "--input=tasks.jsonl", "--dataset=d", cwd=tmp_path)
    meeting = Meeting()
    with serving(meeting) as url:
        words = (*GIVEN, f"--base_url={url}", f"--num_repeats={repeats}", "--num_samples_in_parallel=2")
        processes = [
            subprocess.Popen(
                command("collect", *words, f"--engine_args.headers.x-who=process-{number}"),
                cwd=tmp_path,
                env=environ(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(PROCESSES)
        ]
        with meeting.changed:
            assert meeting.changed.wait_for(lambda: len(meeting.seen) == PROCESSES, 300), meeting.seen
            if killed:
                processes[0].kill()
            meeting.open = True
            meeting.changed.notify_all()
        said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [-9 if killed else 0, 0, 0], said
    counted = "SELECT count(*), count(DISTINCT (task_id, rollout_index)), count(DISTINCT run_id) > 1 FROM attempts"
    assert query(tmp_path / "w", counted) == [(tasks * repeats, tasks * repeats, True)]
    assert not list((tmp_path / "w/locks/claims").iterdir())

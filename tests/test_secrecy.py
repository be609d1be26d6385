"""No key in use is on the disk or on the screen, however it came in and however an endpoint spells it."""

from __future__ import annotations

import base64
import gzip
import html
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest

from rolloutops.config import redact
from rolloutops.config.plugins import find
from rolloutops.config.redact import redacted_text, without_keys
from rolloutops.config.secrets import Secret, public, without_secrets, wrapped
from tests.helpers import command, environ, rolloutops, sums, write_jsonl
from tests.loopback import serving

KEY = "sk-live/SECRET+wherever.it_9f8e7d6c=="
SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "slashes escaped": lambda key: key.replace("/", r"\/"),
    "every character escaped": lambda key: "".join(f"\\u{ord(c):04x}" for c in key),
    "some escaped, in capitals": lambda key: (
        key.replace("+", r"\u002B").replace("=", r"\u003D").replace("/", r"\u002F")
    ),
    "escaped twice": lambda key: "".join(f"\\\\u{ord(c):04X}" for c in key),
    "in an address": lambda key: quote(key, safe=""),
    "in an address twice": lambda key: quote(quote(key, safe=""), safe=""),
    "percent": lambda key: "".join(f"%{ord(c):02x}" for c in key),
    "HTML": lambda key: html.escape(key).replace("+", "&plus;").replace("/", "&sol;"),
    "HTML by number": lambda key: "".join(f"&#{ord(c)};" for c in key),
    "HTML by hexadecimal number": lambda key: "".join(f"&#x{ord(c):X};" for c in key),
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "base64 of a login": lambda key: base64.b64encode(f"user:{key}".encode()).decode(),
    "base64 for addresses": lambda key: base64.urlsafe_b64encode(f"Bearer {key}!".encode()).decode(),
    "a folded header": lambda key: f"{key[:9]}\\r\\n {key[9:]}",
    "truncated": lambda key: key[:-12],
    "only its end": lambda key: key[-20:],
}


def spoken(folder: Path) -> bytes:
    """All that is in a folder, Parquet and gzip read, JSON, addresses and HTML decoded."""
    found = b""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if path.suffix == ".parquet":
            data = json.dumps(pq.read_table(path).to_pylist(), default=str).encode()
        found += gzip.decompress(data) if path.suffix == ".gz" else data
    return found


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_key_in_an_error_is_taken_out_in_any_spelling(spelling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    redact.keep_out_variable("SOME_KEY")
    text = f"no such key: {SPELLINGS[spelling](KEY)} (see the log)"
    clean = redacted_text(text)
    assert clean.startswith("no such key: ")
    assert clean.endswith(" (see the log)")
    assert "[key]" in clean
    for part in (KEY[:12], KEY[-12:], "SECRET", SPELLINGS[spelling](KEY)[4:16]):
        assert part not in clean


def test_an_ordinary_answer_is_not_touched() -> None:
    text = b"a 50 % share of \\u00e9t\\u00e9 &amp; hiver, the SECRET of sk-live"
    assert without_keys(text) is text
    assert redact.redacted(text) == text


def test_what_is_secret_is_known_by_its_name_at_any_depth() -> None:
    settings = {
        "extra_body": {"api_key": "k1", "prompt_cache_key": "sums-1", "n": 1},
        "default_headers": {"Ocp-Apim-Subscription-Key": "k2", "Accept": "text/plain"},
        "auth": {"user": "u1", "pins": [1234]},
        "proxy": "http://u2:p2@proxy:8080/",
        "url": "https://store/x?sv=2020&sig=s1&api-version=3#f1",
        **{"hf_token": "t1", "eos_token": "</s>", "max_tokens": 5, "key": "answer", "tokenizer": "t/t"},
        **{
            "awsSecretAccessKey": "s2",
            "X-Goog-Signature": "s3",
            "session_cookie": "c1",
            "api_key_env": "sk-in-place-1",
        },
    }
    shown = json.dumps(public(settings))
    for hidden in ("k1", "k2", "u1", "1234", "u2", "p2", "2020", "s1", "f1", "t1", "s2", "s3", "c1", "in-place"):
        assert hidden not in shown.replace("sums-1", "")
    for kept in ("sums-1", "text/plain", "@proxy:8080", "api-version=3", "</s>", '"answer"', "t/t", '"max_tokens": 5'):
        assert kept in shown
    assert public(public(settings)) == public(settings)
    other = json.loads(json.dumps(settings).replace("k1", "z1").replace("t1", "z2"))
    assert without_secrets(settings) == without_secrets(other) == without_secrets(public(settings))
    assert f"{Secret('x1')} {Secret('x1')!r} {[Secret('x1')]}" == "*** '***' ['***']"


def test_an_engine_gets_the_key_and_a_recorded_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def make(model='', login=None, **more): return (login, more)")
    plugin = find("engine", "mine.py:make", tmp_path)
    settings = wrapped({"login": {"password": "p1"}, "token": "t1"})
    assert plugin.make(settings) == ({"password": "p1"}, {"token": "t1"})
    assert plugin.version(settings) == plugin.version(public(settings))
    with pytest.raises(Exception, match=r"login.password is not known here, because keys are not recorded"):
        plugin.make(public(settings))


def test_no_key_is_on_the_disk_or_on_the_screen(tmp_path: Path) -> None:
    """Through the command line: keys on it and in the environment, and an endpoint that echoes them."""
    write_jsonl(tmp_path / "in.jsonl", sums(6))
    echoed = [SPELLINGS[name](KEY) for name in ("every character escaped", "base64 of a login", "in an address")]
    page = f"<title>401 {html.escape(KEY)}</title>{SPELLINGS['HTML by number'](KEY)} pw-SECRET-77"
    errors = [(500, {}, f'{{"error": {{"message": "bad {one}", "code": "x"}}}}'.encode()) for one in echoed]
    faults = [*errors, (500, {"Content-Type": "text/html"}, page.encode()), (200, {}, page.encode()), None]
    words = ["collect", "--input=in.jsonl", "--data=w", "--environment=exact_match", "--engine=openai", "--model=m"]
    words += [
        "--api_key_env=SOME_KEY",
        "--engine_args.headers.X-Other=pw-SECRET-77",
        "--max_attempts=6",
    ]  # one rollout may get all five
    words += ['--engine_args.extra_body={"password":"xSECRETx-5"}', "--retry_seconds=0.01"]
    with serving(faults=faults, answer=lambda _: f"Answer: {KEY}") as server:
        url = f"--base_url={server.url}?code=qSECRETq-6"
        done = rolloutops(*words, url, cwd=tmp_path, SOME_KEY=KEY)
        assert server.headers[-1]["Authorization"] == f"Bearer {KEY}"
        assert server.headers[-1]["X-Other"] == "pw-SECRET-77"
        assert server.bodies[-1]["password"] == "xSECRETx-5"
        again = rolloutops(
            *[word.replace("xSECRETx-5", "ySECRETy-5") for word in words], url, cwd=tmp_path, SOME_KEY=KEY
        )
        lost = rolloutops("collect", "--data=w", "--num_repeats=2", cwd=tmp_path, code=2)
    assert "extra_body.password" in done.stderr
    assert "not known here, because keys are not recorded" in lost.stderr
    screens = [
        rolloutops(*words, "--data=w", cwd=tmp_path) for words in (["status"], ["status", "--json"], ["metrics"])
    ]
    screens.append(rolloutops("sql", "--data=w", "--json", "SELECT * FROM attempts", cwd=tmp_path))
    said = "".join(one.stdout + one.stderr for one in (done, again, lost, *screens))
    for text in (said, spoken(tmp_path / "w").decode(errors="replace")):
        assert "[key]" in text
        for spelling in (KEY, *echoed, KEY[:14], "SECRET", "f8e7d6c"):
            assert spelling not in text


def test_the_traceback_of_a_bug_holds_no_key(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", sums(2))
    (tmp_path / "mine.py").write_text(
        "class E:\n"
        " def __init__(self, token): self.token = token\n"
        " async def start(self): raise LookupError(f'no {self.token} \\x1b]0;x\\x07')\n"
        " async def stop(self): pass\n"
        " async def answer(self, call): pass\n"
        "def make(model='', token=''): return E(token)\n"
    )
    words = ("collect", "--input=in.jsonl", "--data=w", "--engine=mine.py", "--engine_args.token=tok-SECRET-1")
    done = subprocess.run(command(*words), cwd=tmp_path, env=environ(), capture_output=True, text=True, check=False)
    assert "LookupError" in done.stderr
    assert "SECRET" not in done.stdout + done.stderr + spoken(tmp_path / "w").decode(errors="replace")
    assert "\x1b" not in done.stderr

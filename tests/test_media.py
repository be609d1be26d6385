"""Rows with pictures, videos and sounds: whose task they are, what is sent of them, and what is not opened."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rolloutops.formats.media_types import media_type
from tests.helpers import query, read_jsonl, rolloutops, write_jsonl
from tests.loopback import serving

CAT = b"\x89PNG\r\n\x1a\n" + b"a cat" * 20
DOG = b"\xff\xd8\xff\xe0\x00\x10JFIF" + b"a dog" * 20
CLIP = b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00" + b"a clip" * 20
SOUND = b"RIFF\x24\x00\x00\x00WAVEfmt " + b"a sound" * 20
SECRET = "root:x:0:0:a secret"


def url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


SENT = {b"cat": url("image/png", CAT), b"dog": url("image/jpeg", DOG), b"clip": url("video/mp4", CLIP)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of media, next to a file that is none of theirs."""
    inner = tmp_path / "data"
    (inner / "m").mkdir(parents=True)
    for name, data in (("cat.png", CAT), ("dog.jpg", DOG), ("clip.mp4", CLIP), ("sound.wav", SOUND)):
        (inner / "m" / name).write_bytes(data)
    (tmp_path / "secret.png").write_text(SECRET)
    (tmp_path / "outside.png").write_bytes(CAT)
    return inner


def image(reference: str, **more: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": reference, **more}}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


CAT_URL, DOG_URL, CLIP_URL = SENT.values()
WAV = {"type": "input_audio", "input_audio": {"data": base64.b64encode(SOUND).decode(), "format": "wav"}}
FORMS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "LLaMA-Factory, ShareGPT turns": (
        {"conversations": [{"from": "human", "value": "<image>Same as<image>?"}], "images": ["m/cat.png", "m/dog.jpg"]},
        [image(CAT_URL), text("Same as"), image(DOG_URL), text("?")],
    ),
    "ms-swift, an object with path": (
        {"messages": user("<video>Who is it?"), "videos": [{"path": "m/clip.mp4", "bytes": None}]},
        [{"type": "video_url", "video_url": {"url": CLIP_URL}}, text("Who is it?")],
    ),
    "ms-swift, a sound": ({"messages": user("<audio>"), "audios": ["m/sound.wav"]}, [WAV]),
    "TRL, no mark": ({"prompt": user("What?"), "images": ["m/dog.jpg"]}, [image(DOG_URL), text("What?")]),
    "TRL, parts for marks": (
        {
            "prompt": user([text("First"), {"type": "image", "text": None, "index": 0}, {"type": "image", "index": 1}]),
            "images": ["m/cat.png", {"bytes": base64.b64encode(DOG).decode(), "path": None}],
        },
        [text("First"), image(CAT_URL), image(DOG_URL)],
    ),
    "verl": ({"prompt": user("Count: <image>"), "images": [{"image": "m/cat.png"}]}, [text("Count: "), image(CAT_URL)]),
    "a question about one picture": ({"question": "Q?", "image": "m/cat.png"}, [image(CAT_URL), text("Q?")]),
    "a list of pictures in a cell": ({"question": "Q?", "images": '["m/cat.png"]'}, [image(CAT_URL), text("Q?")]),
    "Qwen-VL": (
        {"messages": user([{"type": "image", "image": "m/cat.png"}, text("Q?")]), "images": ["m/cat.png"]},
        [image(CAT_URL), text("Q?")],
    ),
    "transformers": ({"messages": user([{"type": "image", "path": "m/dog.jpg"}])}, [image(DOG_URL)]),
    "OpenAI": (
        {"messages": user([{"type": "image_url", "image_url": {"url": "m/cat.png", "detail": "low"}}])},
        [image(CAT_URL, detail="low")],
    ),
    "Anthropic": (
        {"messages": user([{"type": "image", "source": {"type": "base64", "data": base64.b64encode(CAT).decode()}}])},
        [image(CAT_URL)],
    ),
    "Responses": (
        {"responses_create_params": {"input": user([{"type": "input_image", "image_url": "m/cat.png"}])}},
        [image(CAT_URL)],
    ),
    "a URL": (
        {"messages": user("<image>Q?"), "images": ["https://x.example/a.png"]},
        [image("https://x.example/a.png"), text("Q?")],
    ),
    "no picture, the word only": ({"messages": user("What does <image> mean in HTML?")}, []),
    "a container": ({"prompt": "Fix it.", "image": "python:3.11"}, []),
}


def collect(folder: Path, address: str, *words: str, code: int = 0, endpoint: str = "chat") -> None:
    flags = ("--data=ws", "--environment=exact_match", "--engine=openai", "--model=m", f"--base_url={address}")
    rolloutops(
        "collect", *flags, "--num_samples_in_parallel=1", *words, f"--endpoint={endpoint}", cwd=folder, code=code
    )


def test_each_form_of_a_row_is_sent_with_its_media(folder: Path) -> None:
    """Marks, columns and parts of any dialect; URLs as they are, files as data URLs."""
    write_jsonl(folder / "in.jsonl", [{**row, "answer": "x"} for row, _ in FORMS.values()])
    with serving() as server:
        collect(folder, server.url, "--input=in.jsonl")
    for (name, (row, parts)), body in zip(FORMS.items(), server.bodies, strict=True):
        content = body["messages"][-1]["content"]
        assert content == (parts or row.get("prompt") or row["messages"][0]["content"]), name
    assert "sha256" not in json.dumps(server.bodies)


def test_responses_and_their_tasks(folder: Path) -> None:
    """The task knows reference and digest; the row is verbatim; another picture under the same name is another task."""
    row = {"prompt": user("<image>Q?"), "images": ["m/cat.png"], "answer": "x"}
    write_jsonl(folder / "in.jsonl", [row])
    with serving() as server:
        collect(folder, server.url, "--input=in.jsonl", endpoint="responses")
        assert server.bodies[0]["input"][0]["content"] == [
            {"type": "input_image", "image_url": CAT_URL},
            {"type": "input_text", "text": "Q?"},
        ]
        sha256 = hashlib.sha256(CAT).hexdigest()
        first = query(folder / "ws", "SELECT row_hash, prompt::VARCHAR, row::VARCHAR FROM tasks")[0]
        assert json.loads(first[1])[0]["content"][0] == image("m/cat.png", sha256=sha256)
        assert json.loads(first[2]) == row
        (folder / "m" / "cat.png").write_bytes(CAT + b"older")
        rolloutops("chunk", "--data=ws", cwd=folder)
        assert query(folder / "ws", "SELECT row_hash FROM tasks")[0][0] != first[0]
        collect(folder, server.url, endpoint="responses")
    assert server.bodies[1]["input"][0]["content"][0]["image_url"] == url("image/png", CAT + b"older")


def outside(folder: Path) -> dict[str, str]:
    """References that are not to be opened, by what is wrong with them -> a word of the reason."""
    (folder / "m" / "link.png").symlink_to("../../outside.png")
    (folder / "linked").symlink_to("..")
    (folder / "m" / "dir.png").mkdir()
    os.mkfifo(folder / "m" / "fifo.png")
    (folder / "m" / "text.png").write_text(SECRET)
    (folder / "m" / "bmw.bmp").write_text("BM is how this text begins, and it is no picture at all")
    with (folder / "m" / "huge.png").open("wb") as file:
        file.write(CAT)
        file.truncate(10 * 2**30)
    return {
        "../../etc/passwd": "outside of",
        "../outside.png": "outside of",
        str(folder.parent / "outside.png"): "outside of",
        "linked/outside.png": "outside of",
        "m/link.png": "outside of",
        "/etc/passwd": "outside of",
        "/dev/zero": "outside of",
        "file:///etc/passwd": "the scheme file",
        f"FILE:{folder}/m/cat.png": "the scheme file",
        "s3://bucket/cat.png": "the scheme s3",
        "m/dir.png": "not a regular file",
        "m/fifo.png": "not a regular file",
        "m": "not a regular file",
        "m/text.png": "first bytes",
        "m/bmw.bmp": "first bytes",
        "m/huge.png": "max_media_bytes",
        "m/sound.wav": "first bytes",
        "m/none.png": "is not in",
        "m/\0.png": "cannot be read",
    }


def test_nothing_else_is_opened(folder: Path) -> None:
    """Each such reference rejects its line, as a column, as a part and in a Responses input; nothing of it is sent."""
    bad = outside(folder)
    rows = [
        make(reference)
        for reference in bad
        for make in (
            lambda path: {"messages": user("<image>Q?"), "images": [path]},
            lambda path: {"messages": user([{"type": "image", "image": path}, text("Q?")])},
            lambda path: {"responses_create_params": {"input": user([{"type": "input_image", "image_url": path}])}},
        )
    ]
    rows += [
        {"responses_create_params": {"input": user([{"type": "input_file", **file}])}}
        for path in list(bad)[:6]
        for file in ({"path": path}, {"filename": path}, {"file_url": path}, {"file_data": path})
    ]
    rows += [{"prompt": "Q?", "videos": ["/etc/passwd"]}, {"prompt": "Q?", "audio": {"path": "../secret.png"}}]
    write_jsonl(folder / "in.jsonl", [*rows, {"prompt": "And 1 + 1?", "answer": "2"}])
    with serving() as server:
        collect(folder, server.url, "--input=in.jsonl", "--skip_bad_lines")
    rejected = {one["line"]: one["reason"] for one in read_jsonl(folder / "ws" / "rejected" / "in.jsonl")}
    assert len(rejected) == len(rows)
    for number, reason in enumerate(rejected.values()):
        if number < 3 * len(bad):
            assert list(bad.values())[number // 3] in reason, (rows[number], reason)
    assert [body["messages"] for body in server.bodies] == [user("And 1 + 1?")]


def test_media_root(folder: Path) -> None:
    """A folder may be named, and a file there may be as large as is said."""
    (folder / "rows").mkdir()
    write_jsonl(folder / "rows" / "in.jsonl", [{"prompt": "Q?", "image": f} for f in ("../m/cat.png", "m/dog.jpg")])
    rolloutops("chunk", "--input=rows/in.jsonl", "--data=ws", cwd=folder, code=2)
    rolloutops("chunk", "--input=rows/in.jsonl", "--data=ws", "--media_root=.", cwd=folder)
    with serving() as server:
        collect(folder, server.url)
    assert [body["messages"][0]["content"][0] for body in server.bodies] == [image(CAT_URL), image(DOG_URL)]
    words = ("--input=rows/in.jsonl", "--data=ws2", "--media_root=.", "--max_media_bytes=50")
    assert "max_media_bytes allows 50" in rolloutops("chunk", *words, cwd=folder, code=2).stderr


def test_a_file_that_changed_since_is_not_sent(folder: Path) -> None:
    """Other bytes, and a symlink in its place, end that rollout for good; the others go on."""
    names = ["m/cat.png", "m/dog.jpg", "m/third.png"]
    (folder / "m" / "third.png").write_bytes(CAT + b"3")
    write_jsonl(folder / "in.jsonl", [{"prompt": "Q?", "image": name, "answer": "x"} for name in names])
    rolloutops("chunk", "--input=in.jsonl", "--data=ws", cwd=folder)
    (folder / "m" / "cat.png").unlink()
    (folder / "m" / "cat.png").symlink_to(folder.parent / "outside.png")
    (folder / "m" / "dog.jpg").write_bytes(DOG + b"!")
    with serving() as server:
        collect(folder, server.url, code=4)
    assert [body["messages"][0]["content"][0] for body in server.bodies] == [image(url("image/png", CAT + b"3"))]
    failures = query(folder / "ws", "SELECT error, final, error_message FROM failures ORDER BY error_message")
    assert [failure[:2] for failure in failures] == [("media_changed", True)] * 2
    assert "'m/cat.png' is outside of" in failures[0][2]
    assert "'m/dog.jpg' has changed" in failures[1][2]


def test_pictures_in_parquet(folder: Path) -> None:
    """Hugging Face's feature Image: bytes, a path, or both; and nulls where a row has none."""
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([[(CAT, None)], [(None, "m/dog.jpg")], None], pa.list_(struct))
    table = pa.table({"problem": ["<image>1?", "<image>2?", "3?"], "images": images})
    pq.write_table(table, folder / "in.parquet")
    with serving() as server:
        collect(folder, server.url, "--input=in.parquet")
    assert [body["messages"][0]["content"] for body in server.bodies] == [
        [image(CAT_URL), text("1?")],
        [image(DOG_URL), text("2?")],
        "3?",
    ]


def test_imported_rollouts_of_two_pictures_are_of_two_tasks(folder: Path) -> None:
    """Text and reference are the same; the bytes are not. A third one repeats the first."""
    log = {"messages": [*user("<image>What is it?"), {"role": "assistant", "content": "It."}], "images": ["it.png"]}
    files = []
    for name, data in (("a", CAT), ("b", CAT + b"2"), ("c", CAT)):
        (folder / name).mkdir()
        (folder / name / "it.png").write_bytes(data)
        files.append(str(write_jsonl(folder / name / "in.jsonl", [{**log, "model": name}])))
    rolloutops("import", *files, "--data=ws", "--dataset=d", cwd=folder)
    counted = query(folder / "ws", "SELECT count(DISTINCT task_id), count(*) FROM rollouts")
    assert counted == [(2, 3)]
    write_jsonl(
        folder / "bad.jsonl",
        [
            {**log, "images": ["../secret.png"]},
            {**log, "images": []},
            {"messages": log["messages"][1:] + log["messages"]},
        ],
    )
    said = rolloutops("import", "bad.jsonl", "--data=ws3", cwd=folder, code=2)
    assert "outside of" in said.stdout + said.stderr
    assert "1 mark <image> but 0 in images" in said.stdout + said.stderr


ANSWER = {"role": "assistant", "content": "No."}
BUILDS = {
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Same <image> as<image>?"}, {"from": "gpt", "value": "No."}]
    },
    "ms_swift": {
        "messages": [{"role": "user", "content": "Same <image> as<image>?"}, {"role": "assistant", "content": "No."}]
    },
    "verl": {"prompt": user("Same <image> as<image>?")},
    "sft_messages": {
        "messages": [*user([text("Same "), {"type": "image"}, text(" as"), {"type": "image"}, text("?")]), ANSWER]
    },
    "sft_prompt_completion": {
        "prompt": user([text("Same "), {"type": "image"}, text(" as"), {"type": "image"}, text("?")]),
        "completion": [ANSWER],
    },
}


def test_builds_write_media_in_the_form_of_each_trainer(folder: Path) -> None:
    """Marks in the text and columns beside it; a picture by URL has no place in LLaMA-Factory's."""
    log = {"messages": [*user("Same <image> as<image>?"), ANSWER], "images": ["m/cat.png", "m/dog.jpg"], "answer": "No"}
    linked = {"messages": [*user([image("https://x.example/a.png"), text("And this?")]), ANSWER], "answer": "No"}
    write_jsonl(folder / "in.jsonl", [log, linked])
    rolloutops("import", "in.jsonl", "--data=ws", "--dataset=d", cwd=folder)
    steps = "".join(
        f'\n[[steps]]\nkind = "build"\nname = "{name}"\nuse = "build/{name}"\ndrop_unfit = true\n'
        + ("" if name == "verl" else "min_reward = -inf\n")
        for name in BUILDS
    )
    (folder / "r.toml").write_text(f'data = "ws"\n[datasets.d]\ninput = "in.jsonl"\n{steps}')
    rolloutops("build", "r.toml", cwd=folder)
    lines = {name: read_jsonl(folder / f"ws/exports/{name}/train.jsonl") for name in BUILDS if name != "verl"}
    lines["verl"] = pq.read_table(folder / "ws/exports/verl/train.parquet").to_pylist()
    assert {name: len(found) for name, found in lines.items()} == {
        name: 1 if name == "sharegpt" else 2 for name in BUILDS
    }
    for name, wanted in BUILDS.items():
        line = next(line for line in lines[name] if "Same" in json.dumps(line))
        media = [{"image": "m/cat.png"}, {"image": "m/dog.jpg"}] if name == "verl" else ["m/cat.png", "m/dog.jpg"]
        assert {key: line[key] for key in wanted} == wanted
        assert line["images"] == media
    info = json.loads((folder / "ws/exports/sharegpt/dataset_info.json").read_text())
    assert info["sharegpt_train"]["columns"] == {"messages": "conversations", "images": "images"}
    (folder / "r.toml").write_text((folder / "r.toml").read_text().replace("drop_unfit = true\n", ""))
    assert (
        "this format has no place for it" in rolloutops("build", "r.toml", "--only=sharegpt", cwd=folder, code=2).stderr
    )


@pytest.mark.parametrize("start", ["ID3", "OggS", "GIF89a", "GIF87a", "fLaC", "#!AMR"])
def test_text_that_begins_like_a_medium_is_text(start: str) -> None:
    for text in (f"{start} is how this text begins", f"{start}\n{'ä' * 70}", start):
        assert media_type(text.encode()[:64]) is None
    assert media_type(start.encode() + bytes((3, 0, 0, 0)) * 4) is not None


def test_columns_named_after_what_they_hold(folder: Path) -> None:
    """A column of the same name that holds something else stands for nothing."""
    rows = [
        {"id": "path", "prompt": "What?", "image_path": "m/cat.png"},
        {"id": "url", "prompt": "What?", "image_url": ["https://x.example/a.png"], "image": "ubuntu:24.04"},
        {"id": "other", "prompt": "What?", "image_url": "none", "image_path": ""},
    ]
    write_jsonl(folder / "tasks.jsonl", rows)
    rolloutops("chunk", "--input=tasks.jsonl", "--data=w", cwd=folder)
    held = "SELECT row->>'id', coalesce(prompt::VARCHAR LIKE '%image_url%', false) FROM tasks ORDER BY 1"
    assert query(folder / "w", held) == [("other", False), ("path", True), ("url", True)]

"""Training lines as tokens with the loss mask: ids and masks are worked out here, byte by byte."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rolloutops.config.plan import Plan, make_plan
from rolloutops.config.recipe_file import load
from rolloutops.errors import UsageError
from rolloutops.view import tokens
from rolloutops.view.tokens import LineTokens, tokenizer_of
from tests.browser import chromium, ready, visiting
from tests.helpers import write_jsonl
from tests.viewer import Viewer, viewing

tokenizers = pytest.importorskip("tokenizers", reason="needs the extra cpu or vllm")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="needs transformers: the extra cpu or vllm"
)

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TURN = "{{ '<|im_start|>' + m.role + '\n' }}"
BODY = "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}{{ '<|im_end|>' }}"
OPEN = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
TOOLS = "{% if tools %}{{ '<|im_start|>tools\n' + tools | tojson + '<|im_end|>\n' }}{% endif %}"
PLAIN = TOOLS + "{% for m in messages %}" + TURN + BODY + "{{ '\n' }}{% endfor %}" + OPEN
MARKED = (
    "{% for m in messages %}" + TURN + "{% if m.role == 'assistant' %}{% generation %}" + BODY
    + "{% endgeneration %}{% else %}" + BODY + "{% endif %}{{ '\n' }}{% endfor %}" + OPEN
)  # fmt: skip
FORGETS = PLAIN.replace("{{ m.content }}", "{{ m.content if loop.last or m.role != 'assistant' else 'gone' }}")
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def model(folder: Path, template: str) -> Path:
    """A tokenizer of one token a byte, as a model's folder has it, with a chat template."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = {word: number for number, word in enumerate([*SPECIAL, *alphabet])}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=words, merges=[]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(SPECIAL)
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def byte_tokens(text: str) -> list[str]:
    """The tokens of a text without special ones: a byte each, as the byte-level alphabet writes it."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + hidden.index(byte)) for byte in text.encode()]


def expected(*turns: tuple[str, str, bool], close: bool = True) -> tuple[list[int], list[int]]:
    """Ids and mask of a conversation. turns: role, what it is rendered as, and whether it is trained on."""
    ids: list[int] = []
    mask: list[int] = []
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())

    def add(words: list[str], trained: bool) -> None:
        numbers = [SPECIAL.index(one) if one in SPECIAL else 3 + alphabet.index(one) for one in words]
        ids.extend(numbers)
        mask.extend([int(trained)] * len(numbers))

    for role, text, trained in turns:
        add(["<|im_start|>", *byte_tokens(f"{role}\n")], False)
        add([*byte_tokens(text), "<|im_end|>"], trained)
        add(byte_tokens("\n"), trained and close)
    return ids, mask


def seen(row: dict[str, Any]) -> tuple[list[int], list[int] | None]:
    """Ids and mask of a row as its page has them; its counts are right."""
    ids = [piece[0] for turn in row["turns"] for piece in turn["pieces"]]
    masks = [turn["mask"] for turn in row["turns"]]
    assert sum(turn["tokens"] for turn in row["turns"]) == row["tokens"] == len(ids)
    if None in masks:
        assert row["trained"] is None
        return ids, None
    mask = [one for part in masks for one in part]
    assert sum(turn["trained"] for turn in row["turns"]) == row["trained"] == sum(mask)
    return ids, mask


def say(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
RENDERED = '{"name": "add", "arguments": {"a": 1}}'
TALK = [
    say("user", "Grüße 😀 <b>"),
    say("assistant", "", tool_calls=[CALL]),
    say("tool", "3"),
    say("assistant", "drei\n\n3"),
]
ROLES = [["user"], ["assistant"], ["tool"], ["assistant"]]


def talk_turns(*trained: bool) -> list[tuple[str, str, bool]]:
    texts = ["Grüße 😀 <b>", RENDERED, "3", "drei\n\n3"]
    return [(turn["role"], text, one) for turn, text, one in zip(TALK, texts, trained, strict=True)]


def rows(viewer: Viewer, path: Path, line: int) -> list[dict[str, Any]]:
    found = viewer.get("line_tokens", path=str(path), line=str(line))
    assert "error" not in found, found
    return list(found["rows"])


def refusal(viewer: Viewer, path: Path, line: int) -> str:
    return str(viewer.get("line_tokens", path=str(path), line=str(line))["error"])


IDS, MASK = expected(*talk_turns(False, True, False, True))
IMAGE = [{"type": "image_url", "image_url": {"url": "a.png"}}]
LINES: list[Any] = [
    {"messages": TALK},
    {"prompt": TALK[:1], "completion": TALK[1:]},
    {"prompt": TALK[:1], "chosen": [say("assistant", "ja")], "rejected": [say("assistant", "nein")]},
    {"input_ids": IDS, "labels": [one if on else -100 for one, on in zip(IDS, MASK, strict=True)]},
    {"token_ids": [5, 6, 70_000, -1], "loss_mask": [0, 1, 1, 0]},
    {"messages": TALK, "tools": [TOOL]},
    {"input_ids": [5, 6], "loss_mask": [1]},
    {"messages": [say("user", IMAGE)]},
    {"text": "no conversation"},
    {"messages": [say("user", "x" * 30_000), say("assistant", "y")]},
    {"prompt": TALK[:1]},
    {"chosen": TALK, "rejected": TALK[:2]},
]


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    folder = tmp_path_factory.mktemp("lines")
    write_jsonl(folder / "lines.jsonl", LINES)
    with viewing(folder, "lines.jsonl", f"--tokenizer={model(folder / 'tiny', PLAIN)}") as running:
        yield running


def test_each_kind_of_line_has_the_ids_and_the_mask_that_its_trainer_makes(viewer: Viewer) -> None:
    ids, mask, path = IDS, MASK, Path("lines.jsonl")
    (row,) = rows(viewer, path, 1)
    assert seen(row) == (ids, mask)
    assert [turn["roles"] for turn in row["turns"]] == ROLES
    assert "turn by turn" in row["note"]
    assert "assistant_only_loss" in row["note"]
    shown = [piece for turn in row["turns"] for piece in turn["pieces"]]
    assert shown[0] == [1, "<|im_start|>", 1]
    split = [piece[1] for piece in shown if piece[1] in ("ü", "ß", "😀", "")]
    assert split == ["ü", "", "ß", "", "😀", "", "", ""], "characters of several tokens"
    assert ["\n", 0] in [piece[1:] for piece in shown]
    (row,) = rows(viewer, path, 2)
    first = len(expected(("user", TALK[0]["content"], False))[0]) + len(expected(("assistant", "", False))[0]) - 2
    assert seen(row) == (ids, [0] * first + [1] * (len(ids) - first)), "all that follows the prompt"
    chosen, rejected = rows(viewer, path, 3)
    for row, text in ((chosen, "ja"), (rejected, "nein")):
        assert seen(row) == expected(("user", TALK[0]["content"], False), ("assistant", text, True))
    assert seen(rows(viewer, path, 4)[0]) == (ids, mask)
    (row,) = rows(viewer, path, 5)
    assert seen(row) == ([5, 6, 70_000, -1], [0, 1, 1, 0])
    assert row["unknown"] == 2
    (row,) = rows(viewer, path, 6)
    assert seen(row)[0] == expected(("tools", json.dumps([TOOL]), False), *talk_turns(*[False] * 4))[0]
    assert row["trained"] == sum(mask)
    (row,) = rows(viewer, path, 7)
    assert seen(row) == ([5, 6], None)
    assert "do not fit" in row["note"]
    assert "media" in refusal(viewer, path, 8)
    assert "has none of them" in refusal(viewer, path, 9)
    (row,) = rows(viewer, path, 10)
    assert row["shown"] == 20_000 < row["tokens"]
    assert row["trained"] == len("y") + 2
    assert sum(len(turn["pieces"]) for turn in row["turns"]) == 20_000
    (row,) = rows(viewer, path, 11)
    assert seen(row)[1] is None
    assert [row["name"] for row in rows(viewer, path, 12)] == ["chosen", "rejected"]
    assert "no line 13" in refusal(viewer, path, 13)


def test_a_key_unfolds_the_tokens_with_marks(viewer: Viewer) -> None:
    (row,) = rows(viewer, Path("lines.jsonl"), 1)
    with chromium() as browser, visiting(browser, viewer.link) as page:
        page.goto(f"{viewer.address}/builds?path=lines.jsonl&line=1")
        ready(page)
        page.keyboard.press("t")
        first = page.locator("article").first
        marks = first.locator("mark.trained")
        marks.first.wait_for()
        assert first.get_by_text(f"{row['trained']} trained").count() == 1
        texts = [piece[1].replace("\n", "↵\n") for turn in row["turns"] for piece in turn["pieces"]]
        assert first.locator(".piece").all_text_contents() == texts
        assert marks.first.evaluate("mark => getComputedStyle(mark).textDecorationLine") == "underline"
        page.keyboard.press("t")
        assert not marks.first.is_visible()


@pytest.fixture(scope="module")
def line() -> Iterator[LineTokens]:
    """One process for the tests below: a start takes seconds."""
    made = LineTokens("")
    yield made
    made.close()


def of(line: LineTokens, folder: Path, template: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of a conversation, by a model with a template."""
    line.tokenizer = str(model(folder, template))
    value = {"messages": messages}
    return dict(line.of(f"{folder} {json.dumps(value)}", value)["rows"][0])


def test_a_mask_is_exact_or_is_not_shown(line: LineTokens, tmp_path: Path) -> None:
    row = of(line, tmp_path / "marked", MARKED, TALK)
    assert seen(row) == expected(*talk_turns(False, True, False, True), close=False), "the template's own marks"
    assert "by {% generation %}" in row["note"]
    row = of(line, tmp_path / "forgets", FORGETS, [*TALK, say("user", "und?"), say("assistant", "4")])
    assert seen(row)[1] is None
    assert "turn 2 cannot be told apart" in row["note"]


def test_a_template_reaches_nothing_and_ends(line: LineTokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="SecurityError"):
        of(line, tmp_path / "reaches", "{{ ''.__class__.__mro__ }}", TALK)
    with pytest.raises(UsageError, match="memory"):
        of(line, tmp_path / "large", "{{ 'x' * 100000000000000 }}", TALK)
    line.close()
    monkeypatch.setattr(tokens, "LONGEST", 0.5)
    with pytest.raises(UsageError, match="took more than"):
        of(line, tmp_path / "endless", ENDLESS, TALK)
    monkeypatch.undo()
    assert line.process is None, "it was killed"
    assert of(line, tmp_path / "after", PLAIN, TALK)["trained"], "and the next question starts another"


def test_a_tokenizer_is_of_this_disk(line: LineTokens, tmp_path: Path) -> None:
    line.tokenizer = "nobody/nothing"
    with pytest.raises(UsageError, match=r"no tokenizer can be read from nobody/nothing .*hf download"):
        line.of("{}", {})
    with pytest.raises(UsageError, match="--tokenizer=FOLDER_OR_MODEL"):
        LineTokens("").of("{}", {})
    assert not tokenizer_of(plan(tmp_path, "openai", tmp_path))
    assert not tokenizer_of(plan(tmp_path, "vllm", tmp_path / "none"))
    assert tokenizer_of(plan(tmp_path, "vllm", tmp_path)) == str(tmp_path)
    assert not tokenizer_of(plan(tmp_path, "vllm", ""))


def plan(folder: Path, engine: str, name: Path | str) -> Plan:
    """The plan of a recipe whose model is a folder."""
    recipe = folder / "recipe.toml"
    collect = f'[collect]\nengine = "{engine}"\nmodel = "{name}"\n'
    recipe.write_text(f'data = "w"\n[datasets.sums]\ninput = "x.jsonl"\n{collect}', encoding="utf-8")
    return make_plan(load(str(recipe)))

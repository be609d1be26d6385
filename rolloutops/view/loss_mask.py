"""Tokens of a training line, with the mask of those that are trained on: what the tokenizer's child process works out.

The chat template is code of strangers. transformers runs it in its sandbox, here in a process of its own, which has a
limit of memory and is killed when it takes too long. Code that a model's folder holds is never run.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from rolloutops.environments.child_process import die_with_parent, limit_memory
from rolloutops.errors import UsageError
from rolloutops.layout import count

SHOWN = 20_000
"""Tokens of a row that a page takes; the counts are of all."""

PARTS = 8
"""Tokens at most that are parts of one character, or of two that share one."""

WORK = 40_000_000
"""Characters that are rendered at most to find where each turn ends: turns times the length of the line."""

MEMORY = 2 << 30
"""Bytes that a line may take beside what the loaded tokenizer has."""

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""What marks the assistant's own text in a chat template, as transformers finds it."""

Messages = list[dict[str, Any]]


class Row(NamedTuple):
    """Token ids of one sequence.

    mask: 1 for each that is trained on; None where it cannot be known, or where nothing is masked. note: how the mask
    was found, or why there is none. turns: (roles, first token, end) of stretches that cover all tokens.
    """

    name: str
    ids: list[int]
    mask: list[int] | None
    note: str
    turns: list[tuple[list[str], int, int]]


class Renderer:
    """Renders conversations with a tokenizer's chat template. options: further arguments that a line has for it."""

    def __init__(self, tokenizer: Any, tools: Any, options: Mapping[str, Any]) -> None:
        self.tokenizer, self.tools = tokenizer, json.loads(tools) if isinstance(tools, str) else tools
        self.tools = self.tools or None
        self.options = {name: value for name, value in options.items() if name != "chat_template"}
        try:
            self.template = tokenizer.get_chat_template(None, self.tools)
        except ValueError as error:
            raise UsageError("the tokenizer has no chat template: take that of a chat model") from error

    def ids(self, messages: Sequence[Any], prompt: bool = False) -> list[int]:
        """Token ids of a conversation. prompt: the answer's opening follows."""
        return self._render(messages, add_generation_prompt=prompt)["input_ids"]

    def ids_and_mask(self, messages: Sequence[Any]) -> tuple[list[int], list[int]]:
        """Token ids, and 1 for each inside the template's {% generation %}."""
        found = self._render(messages, return_assistant_tokens_mask=True)
        return found["input_ids"], found["assistant_masks"]

    def _render(self, messages: Sequence[Any], **settings: Any) -> Any:
        settings = {**self.options, **settings, "tools": self.tools, "tokenize": True, "return_dict": True}
        return self.tokenizer.apply_chat_template(list(messages), **settings)

    def prefix(self, messages: Sequence[Any], whole: Sequence[int], prompt: bool = False) -> int | None:
        """How many tokens the messages are at the beginning of a longer conversation; None where it begins otherwise,
        or the template does not take them alone."""
        try:
            ids = self.ids(messages, prompt) if messages or prompt else []
        except Exception:  # a template may raise anything
            return None
        return len(ids) if list(whole[: len(ids)]) == ids else None


def rows_of(value: Any, tokenizer: Any) -> list[Row]:
    """Return the sequences of a training line that a trainer would make. Raises UsageError where it has none."""
    if not isinstance(value, dict):
        raise UsageError("the line is not a JSON object")
    ids = next((value[name] for name in ("input_ids", "token_ids", "tokens") if _are_ids(value.get(name))), None)
    if ids is not None:
        return [_pretokenized(value, ids)]
    names = ("messages", "prompt", "completion", "chosen", "rejected")
    parts: dict[str, Messages] = {name: value[name] for name in names if _is_conversation(value.get(name))}
    if any(_has_media(one) for part in parts.values() for one in part):
        raise UsageError("the line has media, whose tokens the model's processor makes; only text is shown as tokens")
    options = value.get("chat_template_kwargs")
    renderer = Renderer(tokenizer, value.get("tools"), options if isinstance(options, dict) else {})
    if "messages" in parts:
        return [_conversation(renderer, parts["messages"])]
    prompt = parts.get("prompt")
    answers = [name for name in ("completion", "chosen", "rejected") if name in parts]
    if prompt and answers:
        return [_answer(renderer, name, prompt, parts[name]) for name in answers]
    if answers:
        return [_without_mask(renderer, name, parts[name], "nothing is masked: the whole is rated") for name in answers]
    if prompt:
        return [
            _without_mask(renderer, "prompt", prompt, "a prompt alone: the policy writes what follows", prompt=True)
        ]
    raise UsageError(
        "tokens are made of messages, of a prompt with completion, chosen or rejected, each a list of messages, and of "
        "token ids; this line has none of them"
    )


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and "role" in one for one in value)


def _has_media(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return any(not isinstance(part, dict) or part.get("type") not in ("text", "thinking") for part in parts)


def _pretokenized(value: Mapping[str, Any], ids: list[int]) -> Row:
    mask, note = None, "the line has no mask: neither labels nor loss_mask"
    for name in ("loss_mask", "labels"):
        found = value.get(name)
        if isinstance(found, list) and len(found) == len(ids):
            mask = [int(one != -100) if name == "labels" else int(bool(one)) for one in found]
            note = f"trained tokens by the line's {name}"
            break
        if isinstance(found, list):
            note = f"{name} has {len(found)} numbers for {count(len(ids), 'token')}: they do not fit"
    return Row("tokens", ids, mask, note, [([], 0, len(ids))])


def _conversation(renderer: Renderer, messages: Messages) -> Row:
    """All turns of the assistant are trained on, by the template's own marks or by rendering turn by turn."""
    ids = renderer.ids(messages)
    turns = _turns(renderer, messages, ids)
    if GENERATION.search(renderer.template):
        again, mask = renderer.ids_and_mask(messages)
        if again == ids:
            return Row("messages", ids, mask, "trained tokens by {% generation %} of the chat template", turns)
    lacks = "the chat template has no {% generation %}, which TRL's assistant_only_loss needs"
    if not turns:
        return Row("messages", ids, None, f"{lacks}, and the line is too long to render turn by turn", turns)
    mask = [0] * len(ids)
    counts = accumulate(len(roles) for roles, _, _ in turns)
    ends = {messages_before: end for messages_before, (_, _, end) in zip(counts, turns, strict=True)}
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        low = renderer.prefix(messages[:number], ids, prompt=True)
        high = ends.get(number + 1)
        if low is None or high is None or high < low:
            why = (
                f"{lacks}, and turn {number + 1} cannot be told apart: the conversation up to there is rendered "
                "otherwise when more follows"
            )
            return Row("messages", ids, None, why, turns)
        mask[low:high] = [1] * (high - low)
    return Row("messages", ids, mask, f"trained tokens by rendering turn by turn: {lacks}", turns)


def _answer(renderer: Renderer, name: str, prompt: Messages, answer: Messages) -> Row:
    """All that follows the prompt is trained on."""
    ids = renderer.ids([*prompt, *answer])
    turns = _turns(renderer, [*prompt, *answer], ids)
    start = renderer.prefix(prompt, ids, prompt=True)
    if start is None:
        why = f"no mask: prompt and {name} are rendered otherwise than the prompt alone, so its end cannot be found"
        return Row(name, ids, None, why, turns)
    return Row(name, ids, [0] * start + [1] * (len(ids) - start), "trained tokens: all that follow the prompt", turns)


def _without_mask(renderer: Renderer, name: str, messages: Messages, note: str, prompt: bool = False) -> Row:
    ids = renderer.ids(messages, prompt)
    return Row(name, ids, None, note, _turns(renderer, messages, ids))


def _turns(renderer: Renderer, messages: Messages, ids: Sequence[int]) -> list[tuple[list[str], int, int]]:
    """(roles, first token, end) of each turn; turns whose border cannot be found are one. Empty for too long lines."""
    if len(messages) * len(json.dumps(messages)) > WORK:
        return []
    found: list[tuple[list[str], int, int]] = []
    roles: list[str] = []
    start = 0
    for number, message in enumerate(messages, 1):
        roles.append(str(message["role"]))
        end = len(ids) if number == len(messages) else renderer.prefix(messages[:number], ids)
        if end is not None and end >= start:
            found.append((roles, start, end))
            roles, start = [], end
    return found


def page_row(row: Row, tokenizer: Any) -> dict[str, Any]:
    """A row as its page takes it: counts of all, and the first SHOWN tokens as [id, text, is special] by turn."""
    special = {one for one, token in tokenizer.added_tokens_decoder.items() if token.special}
    vocabulary = _Vocabulary(tokenizer)
    turns = []
    for roles, start, end in row.turns or [([], 0, len(row.ids))]:
        ids = row.ids[start : min(end, SHOWN)]
        texts = vocabulary.texts(ids)
        pieces = [[one, text, int(one in special)] for one, text in zip(ids, texts, strict=True)]
        mask = None if row.mask is None else row.mask[start:end]
        turns.append(
            {
                "roles": roles,
                "tokens": end - start,
                "trained": None if mask is None else sum(mask),
                "pieces": pieces,
                "mask": None if mask is None else mask[: len(pieces)],
            }
        )
    return {
        "name": row.name,
        "note": row.note,
        "tokens": len(row.ids),
        "trained": None if row.mask is None else sum(row.mask),
        "shown": min(len(row.ids), SHOWN),
        "unknown": sum(not vocabulary.has(one) for one in row.ids[:SHOWN]),
        "turns": turns,
    }


class _Vocabulary:
    """The texts of tokens. Those that are parts of one character have it together: the first is its text."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.size = tokenizer, len(tokenizer)
        self.single: dict[int, str] = {}

    def has(self, one: int) -> bool:
        return 0 <= one < self.size

    def texts(self, ids: Sequence[int]) -> list[str]:
        """The text of each token; empty for one that continues a character."""
        for one in set(ids) - set(self.single):
            self.single[one] = self._text(one)
        found = [self.single[one] for one in ids]
        at = 0
        while at < len(ids):
            size, text = self._character(ids[at : at + PARTS]) if "\ufffd" in found[at] else (1, found[at])
            found[at : at + size] = [text, *[""] * (size - 1)]
            at += size
        return found

    def _character(self, ids: Sequence[int]) -> tuple[int, str]:
        """How many tokens make whole characters, and these; of a stray one, its name."""
        for size in range(1, len(ids) + 1):
            text = self._decode(ids[:size])
            if "\ufffd" not in text:
                return size, text
        return 1, str(self.tokenizer.convert_ids_to_tokens(ids[0]))

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def _text(self, one: int) -> str:
        name = self.tokenizer.convert_ids_to_tokens(one) if self.has(one) else None
        if name is None:
            return f"[{one}]"
        text = self._decode([one])
        if name.startswith("▁") and not text.startswith(" "):
            return f" {text}"  # decoding drops the space that a text begins with
        return text or name


def load(name: str) -> Any:
    """Load a tokenizer from this disk alone. Raises UsageError where it cannot be."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # tokenizers need none; importing it takes seconds
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise UsageError(
            "tokens are made by transformers, which is not installed (the extras vllm and cpu have it): "
            "pip install transformers"
        ) from error
    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise UsageError(
            f"no tokenizer can be read from {name} ({_first_line(error)}): it must be a model's folder on this disk, "
            "or a model that is in the Hugging Face cache, as after 'hf download MODEL'"
        ) from error


def work() -> None:
    """Answer lines until the parent hangs up: each is a JSON object with `tokenizer` and `value`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    tokenizers: dict[str, Any] = {}
    with socket.socket(fileno=os.dup(0)) as parent, parent.makefile("rwb") as link:
        for line in link:
            try:
                answer = _answer_line(json.loads(line), tokenizers)
            except UsageError as error:
                answer = {"error": str(error)}
            except MemoryError:
                answer = {"error": "the line takes too much memory as tokens"}
            except Exception as error:  # whatever a template or a tokenizer raises
                answer = {"error": f"the tokenizer or its chat template refuses the line: {_first_line(error)}"}
            link.write(json.dumps(answer).encode() + b"\n")
            link.flush()


def _answer_line(question: Mapping[str, Any], tokenizers: dict[str, Any]) -> dict[str, Any]:
    name = question["tokenizer"]
    if name not in tokenizers:
        tokenizers[name] = load(name)
        limit_memory(MEMORY)
    tokenizer = tokenizers[name]
    return {"rows": [page_row(row, tokenizer) for row in rows_of(question["value"], tokenizer)]}


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__

"""The `scripted` engine: answers from a rule or a file, for tests, rehearsals and docs. It calls no model.

Its answer depends only on the call's key and turn, so a run that was killed and resumed, or ran in another order, gives
the same text. Its failures also depend on the attempt, so a failed rollout can succeed later, as with an endpoint.
Tokens are words.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

from rolloutops.config.plugins import find
from rolloutops.errors import FAILURES, AttemptFailed, InputError, RolloutopsError, UsageError, did_you_mean
from rolloutops.formats.chat import message, tool_call
from rolloutops.formats.strict_json import dump, parse
from rolloutops.formats.task_rows import answer_of_row, from_chat, text_of
from rolloutops.types import Message, ModelAnswer, ModelCall

Rule = Callable[[ModelCall], str | Message | Awaitable[str | Message]]
"""A call in, the answer out: a text, or a chat message."""

STEPS = (
    "Let me think about it.",
    "First I read the question again.",
    "Then I work it out, one step after the other.",
    "That can be checked in a second way.",
    "Both ways agree.",
)
"""What a scripted answer may begin with, so that lengths differ as they do with a model."""

WORD = re.compile(r"\S+")
PLAIN = re.compile(r"[\w .,:;%'+-]*\w%?")
"""Answers that environments find behind `Answer:`; any other is put into a box."""
COLON = "lenient_answer_colon"
"""How the grading modes begin in which a row with options asks for `Answer: B`; in all others for a box."""


class ScriptedEngine:
    """An engine that answers without a model.

    model: the model's name in the rows.
    answers: a JSONL file with lines {"key": "dataset/task_id/rollout_index" or "task_id", "text": ...}, or with a chat
        "message" in place of the text. Several lines with one key are the turns of a rollout; the last one is repeated.
    rule: how to answer without such a file: `gold` (the row's expected answer, or a wrong one; if tools are offered,
        after a call of the first tool for each fact of the answer), `echo` (the last user text), `choice` (one of the
        row's options, at random), or `package.module:attr` or `file.py:attr`, a function of the ModelCall that returns
        a text or a chat message.
    faults: failures to simulate, e.g. `timeout:0.01,rate_limited:0.02,server_error:100`, or a table: a number below 1
        is a share of the calls, a whole number N is every Nth call. The names are those of `errors.FAILURES`.
    delay: seconds before each answer, or a range such as `0.1..0.5`.
    correct: share of rollouts that `gold` answers correctly. seed: decides which rollouts are correct and which fail.
    token_ids: also return token ids and log-probs, made up from the words.
    """

    operational: ClassVar[frozenset[str]] = frozenset(("delay", "faults"))

    def __init__(
        self,
        model: str = "scripted",
        *,
        answers: str | None = None,
        rule: str = "gold",
        faults: str | Mapping[str, float] | None = None,
        delay: str | float = 0.0,
        correct: float = 0.5,
        seed: int = 0,
        token_ids: bool = False,
    ) -> None:
        if not 0 <= correct <= 1:
            raise UsageError(f"scripted: correct is a share between 0 and 1, not {correct}")
        self.model, self.seed, self.token_ids = model, seed, token_ids
        self.shares, self.every = _faults(faults)  # kind -> upper end of its slice of [0, 1); kind -> every Nth call
        self.rule: Rule = _from_file(Path(answers)) if answers else _rule(rule, correct, seed)
        self.delay = _delay(delay)
        self.seen = 0  # calls so far

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""

    async def answer(self, call: ModelCall) -> ModelAnswer:
        """The rule's answer; AttemptFailed where the schedule says so."""
        self.seen += 1
        low, high = self.delay
        if high:
            await asyncio.sleep(low + (high - low) * chance(self.seed, "delay", call.key, call.turn, call.attempt))
        self._maybe_fail(call)
        found = self.rule(call)
        said = await found if inspect.isawaitable(found) else found
        if isinstance(said, str):
            said = message("assistant", said)
        finish = "tool_calls" if said.get("tool_calls") else "stop"
        tokens: dict[str, Any] = {}
        if self.token_ids:
            tokens = {
                "prompt_token_ids": [_token(word) for each in call.messages for word in _words(each)],
                "generation_token_ids": [_token(word) for word in _words(said)],
                "generation_log_probs": [-chance(self.seed, at, word) for at, word in enumerate(_words(said))],
            }
        return ModelAnswer(
            message=said,
            finish_reason=finish,
            model=self.model,
            input_tokens=sum(1 for each in call.messages for _ in _words(each)),
            output_tokens=sum(1 for _ in _words(said)),
            reasoning_tokens=0,
            cached_tokens=0,
            raw=dump({"model": self.model, "message": said, "finish_reason": finish, "params": dict(call.params)}),
            **tokens,
        )

    def _maybe_fail(self, call: ModelCall) -> None:
        drawn = chance(self.seed, "fault", call.key, call.turn, call.attempt)
        kind = next((kind for kind, end in self.shares.items() if drawn < end), None)
        kind = kind or next((kind for kind, every in self.every.items() if self.seen % every == 0), None)
        if kind:
            raise AttemptFailed(kind, f"scripted: {FAILURES[kind].meaning}")


def chance(*what: Any) -> float:
    """A number in [0, 1) that depends on its arguments alone."""
    digest = blake2b("\0".join(map(str, what)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def _rule(name: str, correct: float, seed: int) -> Rule:
    if name == "gold":
        return lambda call: _gold(call, correct, seed)
    if name == "echo":
        return lambda call: next((text_of(each) for each in reversed(call.messages) if each["role"] == "user"), "")
    if name == "choice":
        return lambda call: _answer(call.row, _pick(_letters(call.row) or list("ABCD"), seed, call.key, call.turn))
    if ":" not in name:
        known = ("gold", "echo", "choice")
        raise UsageError(
            f"scripted: no rule {name!r}{did_you_mean(name, known)}; the rules are gold, echo, choice and module:attr"
        )
    try:
        return find("engine", name).load()
    except RolloutopsError as error:
        raise UsageError(f"scripted: the rule {name!r} cannot be loaded: {error}") from None


def _gold(call: ModelCall, correct: float, seed: int) -> str | Message:
    """The expected answer or a wrong one; where tools are offered, after one tool call for each fact of it."""
    right = chance(seed, "correct", call.key) < correct
    expected = (answer_of_row(call.row) or "").rpartition("####")[2].strip()
    facts = _listed(expected)
    if call.tools and expected:
        searched = facts or [expected]
        if not right:
            searched = searched[: (len(searched) + 1) // 2]
        if call.turn < len(searched):
            function = call.tools[0].get("function") or call.tools[0]
            arguments = _arguments(function.get("parameters") or {}, searched[call.turn])
            made = tool_call(f"call_{call.turn}", function["name"], arguments)
            return message("assistant", tool_calls=[made])
    if facts:
        said = ", ".join(facts if right else facts[: len(facts) // 2]) or "I could not find it"
        return f"{_steps(call, seed)}Answer: {said}"
    said = expected if right and expected else _wrong(call, expected, seed)
    return f"{_steps(call, seed)}{_answer(call.row, said)}"


def _answer(row: Mapping[str, Any], text: str) -> str:
    """An answer as the row's environment finds it."""
    wants_box = bool(_letters(row)) and not str(row.get("grading_mode") or "").startswith(COLON)
    return f"Answer: {text}" if PLAIN.fullmatch(text) and not wants_box else f"Answer: \\boxed{{{text}}}"


def _wrong(call: ModelCall, expected: str, seed: int) -> str:
    """A plausible answer that is not the expected one: another option, another number, or some words."""
    letters = _letters(call.row)
    others = [letter for letter in letters if letter != expected.upper()]
    if expected.upper() in letters and others:
        return _pick(others, seed, call.key)
    if re.fullmatch(r"-?\d{1,15}", expected):
        return str(int(expected) + 1 + int(9 * chance(seed, "wrong", call.key)))
    return _pick(["I do not know", "none of these", "it cannot be said"], seed, call.key)


def _steps(call: ModelCall, seed: int) -> str:
    return "".join(f"{step}\n" for step in STEPS if chance(seed, step, call.key) < 0.4)


def _listed(expected: str) -> list[str]:
    """The facts of an answer that is a JSON list; of a fact with alternatives, the first. Else none."""
    try:
        found = parse(expected) if expected.startswith("[") else []
    except ValueError:
        return []
    firsts = [fact[0] if isinstance(fact, list) and fact else fact for fact in found]
    return [fact if isinstance(fact, str) else dump(fact) for fact in firsts]


def _arguments(schema: Mapping[str, Any], fact: str) -> dict[str, Any]:
    """Arguments of a tool that fit its schema: texts are the fact, numbers the fact's if it is one."""
    properties = schema.get("properties") or {}
    number = float(fact) if re.fullmatch(r"-?\d{1,15}(\.\d+)?", fact) else 1.0
    values = {"integer": int(number), "number": number, "boolean": True, "array": [fact], "object": {}, "null": None}
    made = {}
    for name in schema.get("required") or list(properties)[:1]:
        about = properties.get(name) or {}
        kind = about.get("type", "string")
        options = about.get("enum")
        made[name] = options[0] if options else values.get(kind if isinstance(kind, str) else kind[0], fact)
    return made


def _letters(row: Mapping[str, Any]) -> list[str]:
    """The letters of a row's options: [{"A": ...}, ...], {"A": ...} or [text, ...]."""
    options = row.get("options") or row.get("choices") or []
    if isinstance(options, Mapping):
        return [str(letter).upper() for letter in options]
    if options and all(isinstance(option, Mapping) for option in options):
        return [str(letter).upper() for option in options for letter in option]
    return list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")[: len(options)]


def _pick(options: Sequence[str], *what: Any) -> str:
    return options[int(len(options) * chance("pick", *what))]


def _from_file(path: Path) -> Rule:
    """A rule that looks the call's key up: in full, then the task id alone."""
    known: dict[str, list[Message]] = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"cannot read the answers in {path}: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse(line)
            key = row.get("key", row.get("task_id"))
            if key is None:
                raise ValueError("it has neither key nor task_id")
            said = row.get("message") or {"content": row["text"], "tool_calls": row.get("tool_calls")}
            known.setdefault(str(key), []).extend(from_chat([{**said, "role": "assistant"}]))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else error
            raise InputError(
                f"{path}, line {number} is not an answer ({what}): it needs key and text, or message"
            ) from None

    def look_up(call: ModelCall) -> Message:
        task_id = call.key.partition("/")[2].rpartition("/")[0]
        turns = known.get(call.key) or known.get(task_id)
        if turns is None:
            raise AttemptFailed("bad_request", f"{path} has no answer for {call.key}")
        return turns[min(call.turn, len(turns) - 1)]

    return look_up


def _faults(values: str | Mapping[str, float] | None) -> tuple[dict[str, float], dict[str, int]]:
    """The schedule as the upper ends of slices of [0, 1), and as every Nth call."""
    if isinstance(values, str):
        values = dict(part.strip().partition(":")[::2] for part in values.split(",") if part.strip())  # type: ignore[misc]
    shares: dict[str, float] = {}
    every: dict[str, int] = {}
    end = 0.0
    for kind, often in (values or {}).items():
        if kind not in FAILURES:
            raise UsageError(
                f"scripted: no failure {kind!r}{did_you_mean(kind, FAILURES)}; known: {', '.join(FAILURES)}"
            )
        try:
            rate = float(often)
        except ValueError:
            rate = -1.0
        if rate >= 1 and rate == int(rate):
            every[kind] = int(rate)
        elif 0 <= rate < 1:
            end += rate
            shares[kind] = end
        else:
            raise UsageError(f"scripted: faults: {kind} needs a share below 1 or a whole number N, not {often!r}")
    if end > 1:
        raise UsageError(f"scripted: the shares in faults add up to {end:g}, which is more than 1")
    return shares, every


def _delay(value: str | float) -> tuple[float, float]:
    """Least and most seconds."""
    low, dots, high = str(value).partition("..")
    try:
        found = (float(low), float(high if dots else low))
    except ValueError:
        found = (-1.0, -1.0)
    if not 0 <= found[0] <= found[1]:
        raise UsageError(f"scripted: delay must be seconds, e.g. 0.2 or 0.1..0.5, not {value!r}")
    return found


def _words(message: Message) -> Iterator[str]:
    """What stands for the tokens of a message: its words, with those of its tool calls."""
    calls = [call["function"] for call in message.get("tool_calls", ())]
    for text in (text_of(message), *(f"{call['name']} {call['arguments']}" for call in calls)):
        for found in WORD.finditer(text):  # one by one: as a list they would take eight times the memory of the text
            yield found[0]


def _token(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass")) % 50_000

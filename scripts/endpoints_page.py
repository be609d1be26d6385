"""Writes docs/endpoints.md from tests/endpoints/habits.toml; `make_reference.py` calls it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
PAGE, TABLE = CHECKOUT / "docs" / "endpoints.md", CHECKOUT / "tests" / "endpoints" / "habits.toml"
KINDS = {"out_of_money": "unauthorized"}
"""What the table calls otherwise than `errors.py`."""
OUTCOMES = {"unauthorized": "the run", "rate_limited": "nothing", "loading": "nothing", "server_error": "nothing"}
"""What a refusal ends: the run, nothing, or (all others) the rollout."""
MOST = 140
"""Characters of a refusal that the page shows."""

INTRO = """<!-- Made by scripts/make_reference.py from tests/endpoints/habits.toml: change that, not this. -->

# Endpoints

The `openai` engine works with each endpoint below. `tests/endpoints/habits.toml` lists how they differ, and the tests
in `tests/endpoints/` run against a local server that behaves like each of them: one turn, three turns with tools, two
calls with one id, arguments that are not JSON, and each refusal. The sources are public documentation, code and
bug reports; the endpoints themselves were not called.

## What the engine does

- **The model's own message is sent back as the endpoint returned it**, with all fields, known to rolloutops or not.
  Nulls and empty lists are left out. The canonical form is stored; `response` has the original message.
- **A field that a refusal names is left out.** If a 400 or 422 names a field of the model's own message, the request is
  sent again without this field, and so are all later ones of the run. If it names no field, all fields but role,
  content and tool calls are left out. `engine_args.replay = "canonical"` sends the canonical form from the start.
- **Arguments of tool calls are sent back as a JSON object.** If the model's arguments are not one, they are sent back
  as `{"invalid_arguments": "…"}`, and the tool's result is the error. The stored message has the original arguments.
- **Ids of tool calls are made unique.** Anthropic, Bedrock, MiniMax and Responses refuse a conversation in which two
  calls have one id. The later call and its result are sent with another id of the same form; the stored ids stay.
- **Custom tools take free text.** Their calls are sent back unchanged. They are stored, and passed to the environment's
  tool, as a function call with the text in the argument `input`.
- **A rollout whose own message is refused is kept.** It ends with `finish_reason` `replay_refused`, which counts as
  unfinished, and `error_message` has the reason. Dropping such rollouts would raise the policy's pass rate.
- **A sample that the endpoint refuses is kept.** Groq answers 400, llama.cpp, Ollama and TGI 500 or 422 if they cannot
  parse the tool call that a model wrote. Sending the request again would sample until a call can be parsed. So the
  rollout ends with `finish_reason` `generation_refused` and the text that the refusal shows, if any.
- **A streamed reply is read**, although the engine never requests one. A stream that ends before the answer is complete
  is a `bad_response`.
- **A refusal ends the rollout, or the run, or nothing.** The code and the message decide, at any depth of the body,
  because providers use one status for all three. A prompt's own fault ends its rollout, as `content_filter`,
  `context_length`, `bad_request` or `forbidden`. A refused key, no credit or a spend limit ends the run, and no rollout
  is given up. Anything else is sent again after the delay that the headers or the body ask for. A request that alone
  exceeds a minute's tokens can never succeed: it is a `context_length`, though its status is 429. `error_message` has
  the reason.
- **`n` above 1 is refused**, because a rollout has one answer: set `num_repeats`.
- **An answer that continues a prefilled turn** (the prompt ends with the assistant) is one message in every build.
"""


def page() -> str:
    """The page as it has to be."""
    habits = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return INTRO + "\n## Differences by endpoint\n" + "".join(_section(each) for each in habits.values())


def _section(habit: Mapping[str, Any]) -> str:
    facts = [f"API: `{habit['api']}`"]
    if "key_header" in habit:
        facts.append(f"key: header `{habit['key_header']}`")
    if "reasoning" in habit:
        where = {"item": "a separate item", "parts": "parts of the content"}.get(habit["reasoning"])
        facts.append(f"reasoning: {where or _names([habit['reasoning']])}")
    if "demands" in habit:
        facts.append(f"must be sent back: {_names(habit['demands'])}")
    if "refuses" in habit:
        facts.append(f"must not be sent back: {_names(habit['refuses'])} ({habit['refusal'][0]})")
    if "unread" in habit:
        facts.append(f"a sample that it cannot parse: {habit['unread'][0]}")
    if "unique" in habit:
        facts.append(f"two tool calls with one id: {habit['unique'][0]}")
    if "arguments" in habit:
        facts.append(f"arguments that are not JSON: {habit['arguments'][0]}")
    rows = [
        f"| `{kind}` | {refusal[0]} | {OUTCOMES.get(kind, 'the rollout')} | {_words(refusal[1])} |"
        for kind, refusal in ((_kind(name), refusal) for name, refusal in habit["refusals"].items())
    ]
    note = f"{habit['note']}\n\n" if "note" in habit else ""
    table = "| refusal | status | ends | message |\n| --- | --- | --- | --- |\n" + "\n".join(rows)
    listed = "\n".join(f"- {fact}" for fact in facts)
    return f"\n### {habit['title']}\n\n{note}{listed}\n\n{table}\n\nSource: {habit['source']}\n"


def _kind(name: str) -> str:
    """The kind of failure that a refusal of the table is: a variant's name follows a dash."""
    kind = name.partition("-")[0]
    return KINDS.get(kind, kind)


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _words(body: str) -> str:
    """The sentence of a refusal, as a cell of a table."""
    found = re.search(r'"(?:message|error|detail|msg)":\s*"((?:[^"\\]|\\.)*)"', body)
    text = (found[1] if found else body).replace("|", "/").replace("`", "'")
    return f"`{text if len(text) <= MOST else text[: MOST - 1] + '…'}`"

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

The `openai` engine works with each endpoint below. What each does differently is in
`tests/endpoints/habits.toml`, and `tests/endpoints/` talks to a loopback server that behaves so: one turn, three turns
with tools, two calls with one id, arguments that are not JSON, each refusal. The sources are public documentation,
code and bug reports; the endpoints themselves were not called.

## What the engine does

- **The model's own message goes back as the endpoint returned it**, fields that rolloutops does not know included.
  Nulls and empty lists are left out. What is stored is the canonical form; `response` has the message as it was.
- **A field that a refusal names is left out.** Where a 400 or 422 names a field of the model's own message, the request
  is sent again without it, and without it for the rest of the run. Where it names none, all fields beside role,
  content and tool calls are left out. `engine_args.replay = "canonical"` sends the canonical form from the start.
- **Arguments of tool calls go back as a JSON object.** A model's arguments that are not one go back as
  `{"invalid_arguments": "…"}`, and the tool's answer is the error. The stored message has them as the model wrote them.
- **Ids of tool calls are told apart.** Anthropic, Bedrock, MiniMax and Responses refuse a conversation in which two
  calls have one id. The later one and its answer are sent under an id of the same form; what is stored stays.
- **Custom tools take free text.** Their calls go back as they came. What is stored is a function call whose arguments
  hold the text as `input`, and so does what the environment's tool receives.
- **A rollout whose own message is refused is kept.** It ends with `finish_reason` `replay_refused`, which is an
  unfinished one, and `error_message` has the reason. Without these a policy would pass more often than it does.
- **A sample that the endpoint refuses is kept.** Groq answers 400, llama.cpp, Ollama and TGI 500 or 422 where they
  cannot read the tool call that a model wrote. The request was fine, and to ask again would draw until a sample can be
  read. The rollout ends with `finish_reason` `generation_refused` and the text that the refusal shows, if any.
- **A streamed reply is read**, though the engine never asks for one. One that ends before the answer is complete is a
  `bad_response`.
- **A refusal belongs to the prompt, to the run, or passes.** The code and the words decide, at any depth of the body:
  providers use one status for all three. What belongs to the prompt ends that rollout, as `content_filter`,
  `context_length`, `bad_request` or `forbidden`. What belongs to the run (a refused key, no money, a spend limit) ends
  it, and nothing is given up. What passes is asked again after the pause that the headers or the body ask for. A
  request that alone is more than a minute's tokens never gets through: it is a `context_length`, though its status is
  429. `error_message` has the reason in each case.
- **`n` above 1 is refused**: a rollout has one answer. Set `num_repeats`.
- **An answer that continues a prefilled turn**, where the prompt ends with the assistant, is one message in every
  build.
"""


def page() -> str:
    """The page as it has to be."""
    habits = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return INTRO + "\n## Habits\n" + "".join(_section(each) for each in habits.values())


def _section(habit: Mapping[str, Any]) -> str:
    facts = [f"API: `{habit['api']}`"]
    if "key_header" in habit:
        facts.append(f"key: header `{habit['key_header']}`")
    if "reasoning" in habit:
        where = {"item": "an item of its own", "parts": "parts of the content"}.get(habit["reasoning"])
        facts.append(f"reasoning: {where or _names([habit['reasoning']])}")
    if "demands" in habit:
        facts.append(f"must go back: {_names(habit['demands'])}")
    if "refuses" in habit:
        facts.append(f"must not go back: {_names(habit['refuses'])} ({habit['refusal'][0]})")
    if "unread" in habit:
        facts.append(f"a sample that it cannot read: {habit['unread'][0]}")
    if "unique" in habit:
        facts.append(f"two tool calls with one id: {habit['unique'][0]}")
    if "arguments" in habit:
        facts.append(f"arguments that are not JSON: {habit['arguments'][0]}")
    rows = [
        f"| `{kind}` | {refusal[0]} | {OUTCOMES.get(kind, 'the rollout')} | {_words(refusal[1])} |"
        for kind, refusal in ((_kind(name), refusal) for name, refusal in habit["refusals"].items())
    ]
    note = f"{habit['note']}\n\n" if "note" in habit else ""
    table = "| refusal | status | ends | says |\n| --- | --- | --- | --- |\n" + "\n".join(rows)
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

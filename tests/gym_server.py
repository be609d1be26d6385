"""NeMo Gym's servers on 127.0.0.1: an environment server's `/run`, a resources server's `/seed_session` and `/verify`.

    with serving(GymServer, faults=["500", None]) as server:
        make(base_url=server.url, ...)

The model behind `/run` answers as the loopback's does. The verifier gives 1.0 where the text holds the row's
`expected_answer`. As NeMo Gym does it, replies repeat the row, with `responses_create_params` filled with nulls. Each
reply sets a cookie, `rollout=<number of the first request>`, unless the request brought it; the log has what it
brought.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml
from aiohttp import web

from tests.loopback import Loopback, _messages

NULLS = {
    "background": None,
    "max_output_tokens": None,
    "metadata": None,
    "temperature": None,
    "tools": [],
    "top_p": None,
}


@dataclass
class GymServer(Loopback):
    """more: what a verdict holds besides the reward, by the row. reply: the whole reply to `/run`, by the row, where
    it is not to be made up. added: what the environment adds to the prompt. config: what its head server has."""

    more: Callable[[dict[str, Any]], dict[str, Any]] = lambda row: {}
    whole: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda row: None
    added: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] | None = None

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request. A head server answers with its configuration, YAML text inside a JSON string."""
        if request.method == "GET" and request.path == "/global_config_dict_yaml" and self.config is not None:
            return web.json_response(yaml.safe_dump(self.config))
        return await super().handle(request)

    def _asked(self, path: str, body: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
        endpoint = path.rpartition("/")[2]
        row = body["task"]["task_input"] if "task" in body else body
        return endpoint, _messages(row["responses_create_params"]["input"] or [])

    def _reply(
        self, endpoint: str, body: dict[str, Any], messages: list[dict[str, Any]]
    ) -> tuple[dict[str, Any], bool]:
        if endpoint == "seed_session":
            return {}, False
        if (whole := self.whole(body)) is not None:
            return whole, False
        if "task" in body:
            result, _ = self._reply(endpoint, body["task"]["task_input"], messages)
            return {"episode_id": body["episode_id"], "task_id": body["task"]["task_id"], "result": result}, False
        row = {key: value for key, value in body.items() if not key.startswith("_ng_")}
        params = row["responses_create_params"]
        if endpoint == "run":
            requested = {"model": "gym-model", "tools": [], "input": params["input"]}
            row["response"], _ = super()._reply("responses", requested, messages)
            row["responses_create_params"] = NULLS | params | {"input": [*_listed(params["input"]), *self.added]}
        said = "".join(part["text"] for item in row["response"]["output"] for part in item.get("content") or [])
        reward = float(str(body.get("expected_answer")) in said)
        return {**row, "reward": reward, "right": reward == 1.0, "length": len(said), **self.more(body)}, False

    async def _deliver(
        self, request: web.BaseRequest, status: int, headers: dict[str, str], data: bytes, entry: dict[str, Any]
    ) -> web.StreamResponse:
        brought = request.cookies.get("rollout")
        headers = headers if brought else {**headers, "Set-Cookie": f"rollout={self.seen}; Path=/"}
        return await super()._deliver(request, status, headers, data, {**entry, "cookie": brought})


def _listed(given: Any) -> list[dict[str, Any]]:
    return given if isinstance(given, list) else [{"role": "user", "content": given, "type": "message"}]

"""The model behind NeMo Gym's servers, as their head server names it.

`GET /global_config_dict_yaml` answers with the merged configuration: YAML text inside a JSON string. Its key
`policy_model_name` is the model, and each server stands in it with its host and port. (nemo_gym: server_utils.py,
HeadServer, whose port is 11000 unless configured, and global_config.py, commit 07d6b0d.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

PORT = 11000
"""The head server's port, where no other is configured."""
PATIENCE = 2.0
"""Seconds in which a head server must answer."""
LARGEST = 16 << 20
"""Bytes of a configuration; what is longer is none."""
REFERENCE = re.compile(r"\$\{(\w+)\}")
"""How a value of the configuration names another key of it."""


def served_model(settings: Mapping[str, Any]) -> str | None:
    """Return the model that answers behind the gym engine's servers; None where no head server says so.

    settings: keys of [collect]. A head server that is not named is looked for on the servers' host, and counts only
    where its configuration has one of their ports.
    """
    args = settings.get("engine_args") or {}
    agents = args.get("agents")
    urls = [args.get("base_url") or settings.get("base_url"), *(agents.values() if isinstance(agents, Mapping) else ())]
    places = [urlsplit(url) for url in urls if isinstance(url, str) and url]
    head, ports = args.get("head_server"), {place.port for place in places}
    if not isinstance(head, str) or not head:
        host = next((place.hostname for place in places if place.hostname), None)
        if host is None:
            return None
        head = f"http://{f'[{host}]' if ':' in host else host}:{PORT}"
        config = _configuration(head)
        if ports.isdisjoint(_ports(config)):
            return None
    else:
        config = _configuration(head)
    model = config.get("policy_model_name")
    if isinstance(model, str) and (other := REFERENCE.fullmatch(model.strip())):
        model = config.get(other[1])
    return model if isinstance(model, str) and model.strip() and "${" not in model else None


def _configuration(head: str) -> Mapping[str, Any]:
    """The configuration that a head server holds; empty where none answers, or with something else."""
    import yaml

    try:
        opener = build_opener(ProxyHandler({}))  # it is one of the user's own machines
        with opener.open(f"{head.rstrip('/')}/global_config_dict_yaml", timeout=PATIENCE) as reply:
            text = json.loads(reply.read(LARGEST))
        found = yaml.safe_load(text) if isinstance(text, str) else text
    except (OSError, ValueError, HTTPException, RecursionError, yaml.YAMLError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _ports(value: Any) -> Iterator[Any]:
    """Each `port` in a configuration, but for the head server's own."""
    if isinstance(value, Mapping):
        if "port" in value:
            yield value["port"]
        for name, each in value.items():
            if name != "head_server":
                yield from _ports(each)

"""Whether a refusal means that the model is still being loaded, as far as servers say so.

Seen: llama.cpp and ramalama (503 "Loading model"), llama-swap (503 "… state is starting"), Hugging Face ("Model X is
currently loading" with estimated_time), TGI and TEI ("Model is loading", "not ready"), vLLM and SGLang behind routers
("no available workers", "no healthy upstream", "server is starting"), Ollama ("llm server loading model"), Triton and
NIM ("Model is not ready").
"""

from __future__ import annotations

import re

STATUSES = frozenset({425, 429, 500, 502, 503, 504})
"""What servers answer meanwhile: mostly 503; Ollama 500, Bedrock 429."""

LOADING = re.compile(
    r"\bloading\b(?! (error|failed))|warming[ _-]?up|(starting|booting|spinning|waking|scaling)[ _-]?up|\bcold start"
    r"|\b(is|are|being|currently|still) (starting|initiali[sz]ing|loading|loaded|started|deployed)\b"
    r"|(model|server|engine|service|worker|deployment)s?( \S+)? (is |are )?not( yet)?"
    r" (ready|loaded|initiali[sz]ed|available yet)"
    r"|no (available|healthy|ready) (workers?|upstream|servers?|replicas?|backends?)|no_available_workers"
    r"|\bModelNotReady",
    re.IGNORECASE,
)
"""How they say it."""

FAILED = re.compile(
    r"\b(error|failed|failure|unable|cannot|could not|exception|out of memory|terminated)\b", re.IGNORECASE
)
"""What a server says whose model will never be loaded: "error loading model", "failed to load"."""

LONGEST_ESTIMATE = 60.0
"""Seconds that `estimated_time` may ask for: it is a guess, and a look costs nothing."""


def is_loading(status: int, text: str, code: str = "") -> bool:
    """Whether an answer of that status with that message means that the model will be there later."""
    said = f"{code} {text}"
    return status in STATUSES and LOADING.search(said) is not None and FAILED.search(text) is None

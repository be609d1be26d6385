"""Training lines as tokens: asks the tokenizer's process, which starts at the first line and is killed when late."""

from __future__ import annotations

import json
from hashlib import sha256
from subprocess import Popen
from threading import Lock
from typing import Any, BinaryIO

from rolloutops.config.paths import as_path
from rolloutops.config.plan import Plan
from rolloutops.engines import smollm2
from rolloutops.environments.child_process import start_child
from rolloutops.errors import UsageError

LONGEST = 60.0
"""Seconds that a line may take, the start of the process included."""

LARGEST = 20_000_000
"""Characters of a line that is made tokens of."""

HELD = 16
"""Answers that are held in memory."""

NONE = (
    "for tokens with the loss mask, stop the viewer and start it with --tokenizer=FOLDER_OR_MODEL: a model's folder on "
    "this disk, or the name of a model in the Hugging Face cache"
)


class LineTokens:
    """Makes tokens of training lines. tokenizer: a folder, or the name of a model; empty where there is none."""

    def __init__(self, tokenizer: str) -> None:
        self.tokenizer = tokenizer
        self.lock = Lock()
        self.process: Popen[bytes] | None = None
        self.link: BinaryIO | None = None
        self.held: dict[str, dict[str, Any]] = {}

    def of(self, text: str, value: Any) -> dict[str, Any]:
        """Return the tokens of a line, by row. text: the line. Raises UsageError in a sentence."""
        if not self.tokenizer:
            raise UsageError(NONE)
        if len(text) > LARGEST:
            raise UsageError(f"the line has {len(text):,} characters; tokens are made of at most {LARGEST:,}")
        key = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        with self.lock:
            if key not in self.held:
                self.held[key] = {"tokenizer": self.tokenizer, **self._ask(value)}
                for old in list(self.held)[:-HELD]:
                    del self.held[old]
            answer = self.held[key]
        if "error" in answer:
            raise UsageError(answer["error"])
        return answer

    def _ask(self, value: Any) -> dict[str, Any]:
        try:
            if self.link is None:
                self.process, connection = start_child("rolloutops.view.loss_mask")
                connection.settimeout(LONGEST)
                self.link = connection.makefile("rwb")  # type: ignore[assignment]
                connection.close()  # the file holds it
            assert self.link is not None
            self.link.write(json.dumps({"tokenizer": self.tokenizer, "value": value}).encode() + b"\n")
            self.link.flush()
            answer = self.link.readline()
        except TimeoutError:
            self.close()
            return {"error": f"the line took more than {LONGEST:.0f} seconds: its tokens are not shown"}
        except OSError:
            answer = b""
        if not answer:
            self.close()
            return {"error": "the tokenizer's process ended before it answered: see the terminal for the reason"}
        return dict(json.loads(answer))

    def close(self) -> None:
        """End the process, whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = self.link = None


def tokenizer_of(plan: Plan) -> str:
    """Return the folder of the first policy that vLLM answers for from a folder on this disk; empty without one."""
    settings = [*plan.policies.values(), *plan.defaults.values()]
    models = [str(one.engine_args.get("model") or one.model) for one in settings if one.engine == "vllm"]
    folders = (smollm2.unpacked_folder() if model == smollm2.NAME else as_path(model) for model in models if model)
    return next((str(folder) for folder in folders if folder is not None and folder.is_dir()), "")

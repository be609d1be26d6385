"""The requests of a batch: the body that a rollout asks, taken down from the loop that asks for all engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rolloutops.collect.agent import attempt
from rolloutops.collect.attempt import PendingRollout
from rolloutops.collect.batch_results import BatchContext, Offers
from rolloutops.engines.batch import BatchEngine
from rolloutops.errors import AttemptFailed
from rolloutops.types import ModelAnswer, ModelCall


@dataclass
class _Listener:
    """An engine that takes a call down and answers nothing of worth."""

    engine: BatchEngine
    body: bytes = b""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def answer(self, call: ModelCall) -> ModelAnswer:
        self.body = self.engine.inner.body(call)
        if len(self.body) + 200 > self.engine.bytes_per_batch:
            raise AttemptFailed(
                "bad_request", f"the request alone is larger than {self.engine.bytes_per_batch:,} bytes"
            )
        return ModelAnswer({"role": "assistant", "content": ""}, "stop", self.engine.inner.model)


async def body_of(context: BatchContext, pending: PendingRollout) -> bytes | None:
    """The request that a rollout asks, taken down from the loop that asks for all engines; None where it cannot be
    written, which is a failed attempt."""
    listener = _Listener(context.engine)
    ended = await attempt(pending, listener, Offers(tools_of(context, pending.task.dataset)))
    if ended.failure is None:
        return listener.body
    row = {**ended.row(), "attempt_id": context.run.next_id(), "run_id": context.run.run_id}
    context.journal.append("attempts", row)
    context.meter.attempted(row)
    return None


def tools_of(context: BatchContext, dataset: str) -> list[dict[str, Any]]:
    """The tools that a dataset's environment offers."""
    verifier = context.verifiers.get(dataset)
    return list(getattr(verifier.environment, "tools", None) or ()) if verifier else []

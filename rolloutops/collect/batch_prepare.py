"""The requests of a batch: the body that a rollout asks, taken down from the loop that asks for all engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rolloutops.collect.agent import attempt
from rolloutops.collect.attempt import PendingRollout
from rolloutops.collect.batch_results import BatchContext, Offers
from rolloutops.errors import AttemptFailed
from rolloutops.store.rows import AttemptRow
from rolloutops.types import BatchClient, ModelAnswer, ModelCall


@dataclass
class _Writer:
    """What stands for the model where a request is only written: it keeps the body, and the answer is empty."""

    client: BatchClient
    body: bytes = b""

    async def answer(self, call: ModelCall) -> ModelAnswer:
        self.body = self.client.body(call)
        if len(self.body) + 200 > self.client.bytes_per_batch:
            raise AttemptFailed(
                "bad_request", f"the request alone is larger than {self.client.bytes_per_batch:,} bytes"
            )
        return ModelAnswer({"role": "assistant", "content": ""}, "stop", self.client.model)


async def body_of(context: BatchContext, pending: PendingRollout) -> bytes | None:
    """The request that a rollout asks, taken down from the loop that asks for all engines; None where it cannot be
    written, which is a failed attempt."""
    writer = _Writer(context.client)
    ended = await attempt(pending, writer, Offers(tools_of(context, pending.task.dataset)))
    if ended.failure is None:
        return writer.body
    row: AttemptRow = {**ended.row(), "attempt_id": context.run.next_id(), "run_id": context.run.run_id}
    context.journal.append("attempts", row)
    context.meter.attempted(row)
    return None


def tools_of(context: BatchContext, dataset: str) -> list[dict[str, Any]]:
    """The tools that a dataset's environment offers."""
    verifier = context.verifiers.get(dataset)
    return list(getattr(verifier.environment, "tools", None) or ()) if verifier else []

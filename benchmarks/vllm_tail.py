"""Tail-heavy answers offline: collect beside fixed chunks and one giant `LLM.chat`. `python -m benchmarks.vllm_tail`.

48 chats, 16 decoded at once, the 135M model on the CPU. The lengths are drawn from a log-normal, once and for all, and
kept by `ignore_eos`. Each run is a process of its own, the kinds take turns; loading the model and a first short answer
are not counted. A collection counts from the ready engine until all is sealed and verified, without the engine's end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from rolloutops.engines import smollm2
from rolloutops.engines.vllm import QUIET, VllmEngine, _cpu_dtype
from rolloutops.types import ModelCall

CHECKOUT = Path(__file__).resolve().parents[1]
KINDS = ("chunks", "giant", "rolloutops")
WIDTH, ROOM = 16, 1024
RECIPE = """
data = "{folder}/w"
[datasets.tail]
input = "tasks.jsonl"
environment = "exact_match"
[collect]
engine = "benchmarks.vllm_tail:make"
model = "smollm2-135m"
num_repeats = {repeats}
responses_create_params = {{ temperature = 0.7, seed = 7, ignore_eos = true }}
"""


def lengths(chats: int) -> list[int]:
    """Tokens of each answer: median 40, a few of some hundred."""
    rng = random.Random(20261121)
    return [max(8, min(512, round(rng.lognormvariate(3.7, 1.0)))) for _ in range(chats)]


def question(number: int, words: int = 0) -> str:
    """A prompt; words: of a preface that is its own."""
    preface = " ".join(f"item{number}x{word}" for word in range(words))
    return f"{preface} What is {number} + {number}? Think step by step.".strip()


def clock() -> tuple[float, float]:
    """Seconds: the time, and what this process has computed."""
    return time.perf_counter(), time.process_time()


class Timed:
    """The vllm engine, and when it was ready, was told to stop, and had stopped."""

    ready = stopping = stopped = (0.0, 0.0)

    def __init__(self, inner: VllmEngine) -> None:
        self.inner = inner

    async def start(self) -> None:
        """Load the model and let it answer once."""
        await self.inner.start()
        self.parallel = self.inner.parallel
        first = [{"role": "user", "content": "Hello"}]
        await self.inner.answer(ModelCall(first, None, {"max_output_tokens": 8}, key="warm/up/0"))
        Timed.ready = clock()

    async def answer(self, call: ModelCall) -> Any:
        """One answer."""
        return await self.inner.answer(call)

    async def stop(self) -> None:
        """Give the model back."""
        Timed.stopping = clock()
        await self.inner.stop()
        Timed.stopped = clock()


def make(model: str) -> Timed:
    """The engine of the recipe above."""
    return Timed(VllmEngine(model, max_model_len=ROOM, max_num_seqs=WIDTH))


def collected(chats: int, repeats: int = 1, words: int = 0, tokens: int = 0) -> dict[str, float]:
    """One collection in this process, in a fresh workspace. tokens: of every answer, in place of `lengths`."""
    from rolloutops.cli.commands.collect import collect_rollouts
    from rolloutops.config.plan import make_plan
    from rolloutops.config.recipe_file import load
    from tests.helpers import query, rolloutops

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "recipe.toml").write_text(RECIPE.format(folder=folder, repeats=repeats))
        rows = [
            {
                "prompt": question(n, words),
                "answer": str(2 * n),
                "responses_create_params": {"max_output_tokens": tokens or length},
            }
            for n, length in enumerate(lengths(chats))
        ]
        (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        rolloutops("chunk", "recipe.toml", cwd=folder)
        first: list[float] = []

        def watch() -> None:
            journals = folder / "w" / "journals"
            while not first:
                if any(path.stat().st_size for path in journals.glob("*.jsonl")):
                    first.append(time.perf_counter())
                time.sleep(0.02)

        threading.Thread(target=watch, daemon=True).start()
        done = collect_rollouts(make_plan(load(str(folder / "recipe.toml"))))
        ended = clock()
        assert done.done == chats * repeats, done
        cached, requested, out = query(
            folder / "w", "SELECT sum(cached_tokens), sum(input_tokens), sum(output_tokens) FROM rollouts"
        )[0]
    moments = zip(Timed.ready, Timed.stopping, Timed.stopped, ended, strict=True)
    wall, cpu = (stopping - ready + end - stopped for ready, stopping, stopped, end in moments)
    return {"wall": wall, "cpu": cpu, "first": first[0] - Timed.ready[0], "tokens": out, "cached": cached / requested}


def chatted(chats: int, chunk: int) -> dict[str, float]:
    """`LLM.chat` over chunks."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import vllm

    args: dict[str, Any] = {"dtype": _cpu_dtype(), "enforce_eager": True, "use_tqdm_on_load": False}
    llm = vllm.LLM(model=str(smollm2.folder()), max_model_len=ROOM, max_num_seqs=WIDTH, **args)
    llm.chat([{"role": "user", "content": "Hello"}], vllm.SamplingParams(max_tokens=8), use_tqdm=False)
    conversations: list[Any] = [[{"role": "user", "content": question(n)}] for n in range(chats)]
    params = [vllm.SamplingParams(max_tokens=n, temperature=0.7, seed=7, ignore_eos=True) for n in lengths(chats)]
    began, first, tokens = clock(), 0.0, 0
    for at in range(0, chats, chunk):
        for output in llm.chat(conversations[at : at + chunk], params[at : at + chunk], use_tqdm=False):
            tokens += len(output.outputs[0].token_ids)
        first = first or time.perf_counter() - began[0]
    wall, cpu = (now - before for before, now in zip(began, clock(), strict=True))
    return {"wall": wall, "cpu": cpu, "first": first, "tokens": tokens}


def run(kind: str, chats: int) -> dict[str, float]:
    """One run in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.vllm_tail", f"--one={kind}", f"--chats={chats}"]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(words, cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    found: dict[str, float] = json.loads(done.stdout.strip().rpartition("\n")[2])
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--chats", type=int, default=48)
    parser.add_argument("--one", default="", help="one run of a kind in this process, as JSON")
    usage = parser.parse_args()
    if usage.one:
        chunk = {"chunks": WIDTH, "giant": usage.chats}
        if usage.one in chunk:
            found = chatted(usage.chats, chunk[usage.one])
        elif usage.one == "cached":
            found = collected(usage.chats // 4, repeats=4, words=80, tokens=16)
        else:
            found = collected(usage.chats)
        print(json.dumps({**found, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
        return
    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    load = [os.getloadavg()[0]]
    for _ in range(usage.runs):
        for kind in KINDS:
            runs[kind].append(run(kind, usage.chats))
            load.append(os.getloadavg()[0])
            print(kind, runs[kind][-1], f"load {load[-1]:.1f}", file=sys.stderr, flush=True)
    print(f"{usage.chats} chats, {sum(lengths(usage.chats)):,} tokens; load average {min(load):.1f} to {max(load):.1f}")
    print("\n| kind | wall s, median (all) | CPU s, median | first row s | first row, share of the wall time |")
    print("|---|---|---|---|---|")
    wall, cpu = ({kind: statistics.median(r[of] for r in runs[kind]) for kind in KINDS} for of in ("wall", "cpu"))
    for kind in KINDS:
        every = ", ".join(f"{r['wall']:.1f}" for r in runs[kind])
        first = statistics.median(r["first"] for r in runs[kind])
        share = statistics.median(r["first"] / r["wall"] for r in runs[kind])
        print(f"| {kind} | {wall[kind]:.1f} ({every}) | {cpu[kind]:.1f} | {first:.1f} | {share:.0%} |")
    ours = wall["rolloutops"]
    print(f"\nthroughput: {wall['chunks'] / ours:.2f} times chunks, {wall['giant'] / ours:.2f} times one giant call")
    print(f"by CPU: {cpu['chunks'] / cpu['rolloutops']:.2f} and {cpu['giant'] / cpu['rolloutops']:.2f} times")
    print(f"cached tokens of 4 samples of a prompt: {run('cached', usage.chats)['cached']:.0%} of all prompt tokens")


if __name__ == "__main__":
    from benchmarks import vllm_tail  # the module whose `make` the recipe names, with its `Timed`

    vllm_tail.main()

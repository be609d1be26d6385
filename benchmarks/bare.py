"""The floor: aiohttp and orjson in a loop, nothing kept: `python -m benchmarks.bare URL TASKS CONCURRENCY [BYTES]`.

BYTES: by which the prompts are longer.
"""

from __future__ import annotations

import asyncio
import sys
import time

import aiohttp
import orjson


async def ask(url: str, tasks: int, concurrency: int, more: int = 0) -> int:
    """Ask for so many answers and read their texts. Returns their length."""
    left, length, text = iter(range(tasks)), 0, "lorem " * (more // 6)
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def work() -> None:
            nonlocal length
            for task in left:
                question = f"What is {task} + {task}? Think step by step, and end with Answer: and the number.{text}"
                body = {"model": "bench", "messages": [{"role": "user", "content": question}], "max_tokens": 256}
                async with session.post(f"{url}/chat/completions", data=orjson.dumps(body)) as reply:
                    answer = orjson.loads(await reply.read())
                length += len(answer["choices"][0]["message"]["content"])

        await asyncio.gather(*(work() for _ in range(concurrency)))
    return length


if __name__ == "__main__":
    url, numbers = sys.argv[1], list(map(int, sys.argv[2:]))
    cpu, wall = time.process_time(), time.perf_counter()
    asyncio.run(ask(url, *numbers))
    print(orjson.dumps({"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}).decode())

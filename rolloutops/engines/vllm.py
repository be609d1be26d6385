"""The engine `vllm`: a model in this process, offline, through vLLM.

One thread loads the model and steps it while requests are unfinished. Each call gives its request to that thread and
waits for its own answer, so concurrent rollouts form a rolling window: no rollout waits for the slowest of a batch, and
a request that vLLM refuses fails alone.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import importlib.util
import itertools
import logging
import os
import queue
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from rolloutops.config.paths import as_path
from rolloutops.engines import smollm2
from rolloutops.engines.vllm_text import MediaPrompt, Text, first_line
from rolloutops.errors import AttemptFailed, EngineError, MissingExtra
from rolloutops.types import ModelAnswer, ModelCall

QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: what kills us leaves no orphan that holds the GPU
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while others want the cores halved the speed
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
"""Environment variables that vLLM reads, set where the user has not set them."""


@dataclass(frozen=True)
class _Request:
    id: str
    prompt: list[int] | MediaPrompt
    params: Any
    future: asyncio.Future[Any]


@dataclass(frozen=True)
class _Abort:
    id: str


class VllmEngine:
    """A vLLM engine; the model is loaded by `start`.

    model: a folder, a model name that vLLM knows, or `smollm2-135m`, which the `cpu` extra contains.
    max_model_len: maximum tokens of prompt and answer together. max_num_seqs: maximum sequences decoded concurrently.
    dtype: the data type (default: the model's; on a CPU bfloat16 if the CPU supports it, else float32).
    tensor_parallel_size: GPUs that share the model. gpu_memory_utilization: share of a GPU's memory to use.
    seed: sampling seed for requests without one.
    chat_template: a Jinja file, or the template itself. chat_template_kwargs: variables for the chat template.
    tool_parser: name of vLLM's parser of tool calls (default: hermes).
    reasoning_parser: name of vLLM's parser of reasoning (default: none).
    token_ids: return token ids and log-probs (of the model, before temperature and penalties).
    engine_args: further arguments of `vllm.EngineArgs`; they override the settings above.
    """

    operational: ClassVar[frozenset[str]] = frozenset(
        ("max_num_seqs", "tensor_parallel_size", "gpu_memory_utilization")
    )

    def __init__(
        self,
        model: str,
        *,
        max_model_len: int | None = None,
        dtype: str | None = None,
        max_num_seqs: int | None = None,
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float | None = None,
        chat_template: str | None = None,
        tool_parser: str | None = None,
        reasoning_parser: str | None = None,
        token_ids: bool = False,
        seed: int | None = None,
        engine_args: Mapping[str, Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        named = {
            "max_model_len": max_model_len,
            "dtype": dtype,
            "max_num_seqs": max_num_seqs,
            "tensor_parallel_size": tensor_parallel_size,
            "gpu_memory_utilization": gpu_memory_utilization,
            "seed": seed,
        }
        self.model = model
        self._llm_args = {name: value for name, value in named.items() if value is not None} | dict(engine_args or {})
        self._text = Text(
            model, _template(chat_template), dict(chat_template_kwargs or {}), bool(reasoning_parser), token_ids
        )
        self._parsers = (tool_parser or "hermes", reasoning_parser)
        self._ids = itertools.count()
        self._orders: queue.SimpleQueue[_Request | _Abort | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._text_thread = concurrent.futures.ThreadPoolExecutor(1, "rolloutops-text")  # tokenizers are not shared
        self._dead: str | None = None

    # -- what collect calls ---------------------------------------------------------------------------------------

    async def ready(self) -> str:
        """Whether it could start, for `check`: nothing is loaded. Raises what `start` would."""
        if importlib.util.find_spec("vllm") is None:
            raise MissingExtra("the engine vllm", "cpu" if self.model == smollm2.NAME else "vllm")
        if self.model.startswith((".", "/", "~")) and not as_path(self.model).is_dir():
            raise EngineError(f"no folder {self.model} to load a model from")
        return "vLLM is installed"

    async def start(self) -> None:
        """Load the model. Raises EngineError in one sentence, MissingExtra where vLLM is not installed."""
        await self.ready()
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        path = as_path(self.model)
        if self.model == smollm2.NAME:
            path = await asyncio.to_thread(smollm2.folder)
        if path.is_dir():
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
        source = str(path) if path.is_dir() else self.model
        loaded: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._dead, self._orders = None, queue.SimpleQueue()
        self._thread = threading.Thread(target=self._live, args=(source, loaded), name="rolloutops-vllm", daemon=True)
        self._thread.start()
        await asyncio.wrap_future(loaded)

    async def answer(self, call: ModelCall) -> ModelAnswer:
        """One assistant message. Raises AttemptFailed for this call, EngineError where the engine has died."""
        loop = asyncio.get_running_loop()
        self._check()
        prompt, params, tools = await loop.run_in_executor(self._text_thread, self._text.prepare, call)
        request = _Request(str(next(self._ids)), prompt, params, loop.create_future())
        self._orders.put(request)
        self._check()  # who dies later than this settles the order
        try:
            output = await request.future
        except asyncio.CancelledError:
            self._orders.put(_Abort(request.id))
            raise
        return await loop.run_in_executor(self._text_thread, self._text.read, call, tools, output)

    async def stop(self) -> None:
        """Give the model's memory back. Calls still waiting fail with EngineError."""
        if self._thread is not None:
            self._orders.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    def _check(self) -> None:
        if self._thread is None or self._dead:
            raise EngineError(self._dead or f"{self.model} is not started")

    # -- the model's thread ---------------------------------------------------------------------------------------

    def _live(self, source: str, loaded: concurrent.futures.Future[None]) -> None:
        loaded.set_running_or_notify_cancel()
        try:
            llm = self._load(source)
        except BaseException as error:
            failed = error if isinstance(error, EngineError) else EngineError(_start_failed(self.model, error))
            failed.__cause__ = error if failed is not error else None
            self._dead = str(failed)
            loaded.set_exception(failed)
            return
        loaded.set_result(None)
        waiting: dict[str, asyncio.Future[Any]] = {}
        try:
            self._serve(llm.llm_engine, waiting)
            self._dead = f"{self.model} was stopped"
        except Exception as error:
            self._dead = f"vLLM died on {self.model}: {first_line(error)}"
        for order in self._waiting_orders(block=False):
            if isinstance(order, _Request):
                waiting[order.id] = order.future
        for future in waiting.values():
            _settle(future, error=EngineError(self._dead))
        del llm
        _free()

    def _serve(self, engine: Any, waiting: dict[str, asyncio.Future[Any]]) -> None:
        """Take orders and step until told to stop. What `step` raises is the engine's death."""
        while True:
            for order in self._waiting_orders(block=not engine.has_unfinished_requests()):
                if order is None:
                    engine.abort_request(list(waiting))
                    return
                if isinstance(order, _Abort):
                    if waiting.pop(order.id, None) is not None:
                        engine.abort_request([order.id])
                    continue
                try:
                    prompt = _rendered(engine.renderer, order.prompt)
                    engine.add_request(order.id, prompt, order.params)
                    waiting[order.id] = order.future
                except Exception as error:
                    with contextlib.suppress(Exception):
                        engine.abort_request([order.id])
                    _settle(order.future, error=_refused(error))
            for output in engine.step() if engine.has_unfinished_requests() else ():
                if output.finished and (future := waiting.pop(output.request_id, None)) is not None:
                    _settle(future, output)

    def _waiting_orders(self, block: bool) -> Iterator[_Request | _Abort | None]:
        with contextlib.suppress(queue.Empty):
            if block:
                yield self._orders.get()
            while True:
                yield self._orders.get_nowait()

    def _load(self, source: str) -> Any:
        """The LLM, and what the text thread needs of it. Runs in the model's thread, which also steps it: CUDA
        devices and OpenMP pools belong to threads."""
        logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())  # before vLLM itself does
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\.")
        import vllm
        from vllm.parser import ParserManager
        from vllm.platforms import current_platform

        args = {"disable_log_stats": True, "use_tqdm_on_load": False, **self._llm_args}
        if current_platform.is_cpu():
            args = {"dtype": _cpu_dtype(), "enforce_eager": True} | args
        llm = vllm.LLM(model=source, **args)
        # Twice what is decoded at once, so that a free place is filled at the next step.
        self.parallel = 2 * int(llm.llm_engine.vllm_config.scheduler_config.max_num_seqs)
        logging.getLogger("vllm.tool_parsers").setLevel(logging.CRITICAL)  # a malformed call is the model's affair
        tool_parser, reasoning_parser = self._parsers
        tokenizer = llm.get_tokenizer()
        try:
            parser = ParserManager.get_parser(
                tool_parser, reasoning_parser, enable_auto_tools=True, tokenizer=tokenizer
            )
        except Exception as error:
            raise EngineError(f"no such parser for {self.model}: {first_line(error)}") from error
        config = llm.llm_engine.model_config
        self._text = replace(
            self._text, tokenizer=tokenizer, parser=parser, config=config, defaults=config.get_diff_sampling_param()
        )
        if self._text.template is None:
            raise EngineError(f"{self.model} has no chat template: set one with chat_template = '<file>'")
        return llm


def _template(chat_template: str | None) -> str | None:
    """The template itself, read where a file is named."""
    if chat_template is None or "{" in chat_template:
        return chat_template
    try:
        return as_path(chat_template).read_text(encoding="utf-8")
    except OSError as error:
        raise EngineError(f"the chat template {chat_template} cannot be read: {error.strerror}") from error


def _rendered(renderer: Any, prompt: list[int] | MediaPrompt) -> Any:
    """A prompt as the engine takes it."""
    if isinstance(prompt, MediaPrompt):
        return prompt.render(renderer)
    return renderer.render_cmpl([{"prompt_token_ids": prompt}])[0]


def _settle(future: asyncio.Future[Any], result: Any = None, error: Exception | None = None) -> None:
    def settle() -> None:
        if not future.done():
            future.set_exception(error) if error else future.set_result(result)

    with contextlib.suppress(RuntimeError):  # the event loop has ended: nobody waits any more
        future.get_loop().call_soon_threadsafe(settle)


def _refused(error: Exception) -> AttemptFailed:
    from vllm.exceptions import VLLMClientError

    mine = isinstance(error, VLLMClientError | ValueError | TypeError)
    return AttemptFailed("bad_request" if mine else "engine_error", f"vLLM refuses the request: {first_line(error)}")


def _start_failed(model: str, error: BaseException) -> str:
    return f"vLLM cannot load {model}: {first_line(error)}; VLLM_LOGGING_LEVEL=INFO shows more"


def _cpu_dtype() -> str:
    """bfloat16 only pays on a CPU that multiplies it."""
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text().split()
        if {"avx512_bf16", "amx_bf16", "bf16"} & set(flags):
            return "bfloat16"
    return "float32"


def _free() -> None:
    """Give memory and process groups back, so that another model can be loaded in this process."""
    gc.collect()
    with contextlib.suppress(Exception):
        from vllm.distributed import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()

"""Sampling parameters (`responses_create_params`): the names that endpoints know, and what a value must be.

An endpoint ignores a name that it does not know, or refuses every request for it; either is found after the money is
spent. So names that neither OpenAI nor vLLM nor SGLang has are refused before. The lists: OpenAI's Responses and Chat
requests (openai 3.57), vLLM's SamplingParams and what its server adds to them (`entrypoints/openai/*/protocol.py`, and
`guided_*` of its earlier versions), SGLang's sampling parameters and its server's (`srt/sampling/sampling_params.py`,
`srt/entrypoints/openai/protocol.py`). A task's own parameters are not looked at: whoever made its row knows what they
are for; but those of HOW_SENT are left out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rolloutops.config.validation import Key, check_table
from rolloutops.errors import UsageError
from rolloutops.formats.columns import HOW_SENT

NAMES: dict[Any, str] = {
    float: """
        temperature top_p min_p frequency_penalty presence_penalty repetition_penalty length_penalty
        """,
    int: """
        max_output_tokens max_tokens max_completion_tokens max_new_tokens min_tokens min_new_tokens top_k seed
        sampling_seed n top_logprobs prompt_logprobs prompt_logprob_start max_tool_calls truncate_prompt_tokens priority
        stream_interval thinking_token_budget routed_experts_prompt_start bootstrap_port bootstrap_room
        output_text_buffer_length max_dynamic_patch min_dynamic_patch data_parallel_rank best_of
        """,
    bool: """
        parallel_tool_calls store stream background ignore_eos skip_special_tokens spaces_between_special_tokens
        include_stop_str_in_output include_reasoning use_beam_search echo add_generation_prompt continue_final_message
        add_special_tokens return_tokens_as_token_ids return_token_ids return_token_offsets return_prompt_text
        return_mm_kwargs watermarking detokenize flat_logprobs skip_clone skip_reading_prefix_cache
        enable_response_messages no_stop_trim separate_reasoning stream_reasoning return_hidden_states
        return_routed_experts return_cached_tokens_details use_audio_in_video
        """,
    str: """
        model instructions user safety_identifier prompt_cache_key prompt_cache_retention previous_response_id
        service_tier truncation reasoning_effort verbosity truncation_side chat_template request_id session_id
        cache_salt guided_regex guided_grammar guided_decoding_backend guided_whitespace_pattern json_schema regex ebnf
        rid extra_key bootstrap_host custom_logit_processor routing_key
        """,
    dict[str, Any]: """
        reasoning text metadata logit_bias chat_template_kwargs stream_options audio prediction web_search_options
        prompt prompt_cache_options media_io_kwargs mm_processor_kwargs structured_outputs kv_transfer_params
        ec_transfer_params vllm_xargs extra_args repetition_detection mm_payload session_params custom_params
        background_options extra_body
        """,
    list[Any]: """
        include tools messages stop_token_ids allowed_token_ids logprob_token_ids functions documents
        previous_input_messages trace_decode_token_ids prompt_logprob_token_ids input_ids context_management
        access_programs guided_choice logits_processors
        """,
    list[str]: "bad_words modalities",
    str | list[str]: "stop stop_regex",
    str | dict[str, Any]: "tool_choice conversation response_format function_call structural_tag image moderation",
    str | list[Any]: "input lora_path",
    str | dict[str, Any] | list[Any]: "guided_json",
    bool | int: "logprobs",
}
"""What a value may be -> the names that are known. A null takes a parameter out, whichever it is."""

KEYS = {name: Key(kind | None, finite=False) for kind, names in NAMES.items() for name in names.split()}


def refuse_bad_sampling(
    params: Mapping[str, Any], table: str = "responses_create_params", any_name: bool = False
) -> None:
    """Raise UsageError for a name that no list has, a value of the wrong type, n above 1, or a reply in a stream.

    table: where they stand, for messages. any_name: of a custom engine, which may know more names.
    """
    check_table(
        *(KEYS, params, f"{table}."),
        any_name=any_name,
        unknown=lambda name, hint: (
            f"{table}.{name}: OpenAI, vLLM and SGLang have no parameter of this name{hint}; "
            f"if your endpoint has it, put it into extra_body: {table}.extra_body.{name}"
        ),
    )
    if isinstance(extra := params.get("extra_body"), Mapping):
        refuse_bad_extra_body(extra, f"{table}.extra_body")
    refuse_bad_extra_body(params, table)


def refuse_bad_extra_body(params: Mapping[str, Any], table: str) -> None:
    """Raise UsageError for what no request may hold: several answers, or a reply that is not sent whole."""
    for name in HOW_SENT:
        if params.get(name):
            raise UsageError(
                f"{table}.{name} changes how a reply is sent, and rolloutops reads whole replies: leave it out"
            )
    refuse_several_answers(params, table)


def refuse_several_answers(params: Mapping[str, Any], table: str) -> None:
    """Raise UsageError for an `n` above 1: all choices but the first would be paid for and dropped."""
    if (n := params.get("n")) not in (None, 1):
        raise UsageError(
            f"{table}.n must be 1, not {n!r}: a rollout has one answer; for several rollouts of each task set "
            f"num_repeats = {n}"
        )

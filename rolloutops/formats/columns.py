"""Names of columns and parameters that several readers of rows know, and columns that the shipped environments read."""

from __future__ import annotations

ANSWER_COLUMNS = ("expected_answer", "answer", "ground_truth", "label", "target", "solution")
"""Where a row has its expected answer: the first of these that it has."""

SYSTEM_COLUMNS = ("system", "system_prompt", "system_message")
"""Where a row has its system message, beside the turns: the first of these that holds text."""

TOOL_COLUMNS = ("tools", "tool_defs", "functions")
"""Where a row has its tools, beside the turns: the first of these that holds something. `tool_defs` is of the package
verifiers, `functions` of OpenAI's first form."""

MEDIA_COLUMNS = (
    *("images", "videos", "audios", "image", "video", "audio"),
    *(f"{medium}_{held}" for medium in ("image", "video", "audio") for held in ("url", "path")),
)
"""Where a row has its pictures, videos and sounds, beside the turns."""

ENVIRONMENT_COLUMNS = {
    "mcqa": ("options", "choices", "grading_mode", "template_metadata"),
    "reasoning_gym": ("metadata",),
    "multi_step": ("document",),
    "code": (
        *("tests", "test_list", "unit_tests", "verifier_metadata", "input_output", "test_setup_code"),
        *("code", "canonical_solution"),
    ),
}
"""Columns that each shipped environment reads, beside the prompt and the expected answer."""

HOW_SENT = ("stream", "stream_options", "background")
"""Parameters that change how a reply is sent, and not what is in it. Replies are read whole: none of them goes out."""

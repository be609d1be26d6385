"""The keys that every build takes besides its step's own parameters: where, in which files, split how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rolloutops.config.validation import key

ENDINGS = {"none": "", "zstd": ".zst", "gzip": ".gz"}
"""How the names of compressed JSON lines end. Parquet is compressed within."""

PROMPT = "prompt"
"""The split_by of a build that names none: its step's split_key, the hash of the prompt."""

INT64 = 2**63 - 1


@dataclass(frozen=True)
class BuildOptions:
    """The keys of every build: `[build.NAME]`. A step that declares one as its parameter is given it too."""

    output: Path = key("", "the folder to write (default: `exports/NAME` in the workspace)")
    format: str = key(
        "jsonl", "jsonl or parquet; the default of some steps, e.g. `build/verl`, is parquet", one_of="jsonl parquet"
    )
    compression: str = key("none", "none, zstd or gzip", one_of="none zstd gzip")
    max_shard_rows: int | None = key(
        None,
        "maximum lines per file; the files are then named `train-00000-of-00002.jsonl` and so on",
        least=1,
        most=INT64,
    )
    max_shard_bytes: int | None = key(None, "maximum bytes per file, before compression", least=1, most=INT64)
    validation: float = key(0.0, "share of the prompts whose lines go to `validation.jsonl`", least=0, below=1)
    test: float = key(0.0, "share of the prompts whose lines go to `test.jsonl`", least=0, below=1)
    split_by: str = key(PROMPT, "what must stay in one split: `prompt`, or a column of the selection, e.g. `cluster`")
    seed: int = key(42, "seed of the split and of the order of lines", most=INT64)
    allow_empty: bool = key(False, "write the files even if no line is left; otherwise the build stops")
    drop_invalid: bool = key(
        False, "drop (and count) lines that the trainer would reject or damage; otherwise the build stops"
    )
    report: bool = key(True, "write `report.html`")

    @property
    def splits(self) -> list[str]:
        """The splits that have a file."""
        return ["train", *(["validation"] if self.validation > 0 else []), *(["test"] if self.test > 0 else [])]

    @property
    def ending(self) -> str:
        """How the names of the data files end."""
        return ".parquet" if self.format == "parquet" else f".jsonl{ENDINGS[self.compression]}"

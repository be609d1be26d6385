"""Pictures through the templates and loaders of vision models: what is rendered of each file is the truth.

The truth is the conversation with a part for each text and picture, in the order in which they were said, rendered by
transformers with the same template: those of TRL's wheel for vision models.
"""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rolloutops.build.build import build
from rolloutops.config.recipe import StepUse
from rolloutops.errors import StepError
from rolloutops.formats.chat import to_chat
from rolloutops.steps.selection import select
from tests.conformance.made import tokenizer, tool
from tests.conformance.test_loaders import needed
from tests.conformance.test_templates import called, datasets, rendered
from tests.given import dump, workspace

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the trainers are theirs

TEMPLATES = (
    "qwen2_5_vl_training", "qwen3_vl_training", "qwen3_5_think_training", "qwen3_6_training", "gemma3_training",
    "gemma4", "idefics3_training", "smolvlm_training", "llava_next_training", "lfm2_2_5_vl",
)  # fmt: skip


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def picture(place: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": place}}


Talk = tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]

TALKS: list[Talk] = [  # prompt, completion, tools; what the user says first begins with the number of the talk
    (
        [{"role": "user", "content": [text("0?"), picture("m/cat.png")]}],
        [{"role": "assistant", "content": "A cat."}],
        [],
    ),
    (
        [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [text("1? "), picture("m/cat.png"), text(" or\n"), picture("m/dog.png"), text(".")],
            },
        ],
        [{"role": "assistant", "content": "The second é."}],
        [],
    ),
    (
        [
            {"role": "user", "content": [text("2?"), picture("m/dog.png")]},
            {"role": "assistant", "content": "A dog."},
            {"role": "user", "content": [picture("m/cat.png"), text("And this?")]},
        ],
        [{"role": "assistant", "content": "A cat."}],
        [],
    ),
    ([{"role": "user", "content": "3? No picture."}], [{"role": "assistant", "content": "None."}], []),
    (
        [{"role": "user", "content": [text("4?"), picture("m/cat.png")]}],
        called(("look", '{"q": "cat", "n": 1}')),
        [tool("look", "q")],
    ),
]


def rollouts(talks: list[Talk] = TALKS) -> list[dict[str, Any]]:
    """A rollout of each talk."""
    found = []
    for number, (prompt, completion, tools) in enumerate(talks):
        row = {"task_id": f"t{number}", "rollout_index": 0, "reward": 1.0, "answer": "4", "text": "x"}
        row |= {"prompt": dump(prompt), "completion": dump(completion)} | ({"tools": dump(tools)} if tools else {})
        found.append(row)
    return found


def parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The truth: each content is a list of parts, and a picture one without its place."""
    made = []
    for message in to_chat(messages, "object"):
        content = [text(message["content"])] if isinstance(message["content"], str) else message["content"]
        shown = [{"type": "image"} if part["type"] == "image_url" else part for part in content]
        made.append({**message, "content": shown})
    return made


def places(messages: list[dict[str, Any]]) -> list[str]:
    """The pictures of a conversation, in order."""
    lists = [message["content"] for message in messages if isinstance(message["content"], list)]
    return [part["image_url"]["url"] for parts in lists for part in parts if part["type"] == "image_url"]


def files(name: str, form: str, folder: Path) -> list[str]:
    """The data files of a build."""
    con = workspace(rollouts())
    keys = {"format": form, "drop_unfit": True}
    report = build(con, StepUse("build", "it", f"build/{name}", keys), Path(), folder / "out", select(con, [], Path()))
    return sorted(str(path) for path in report.output.glob("train*"))


def loaded(name: str, form: str, folder: Path) -> list[dict[str, Any]]:
    """The rows of a build as `datasets` loads them, in the order of the tasks."""
    kind, paths = {"jsonl": "json", "parquet": "parquet"}[form], files(name, form, folder)
    rows = datasets.load_dataset(kind, data_files=paths, split="train", cache_dir=str(folder / "cache"))
    return sorted(rows, key=lambda row: re.search(r"\d\?", json.dumps(row)).group())


def same(template: str, messages: list[dict[str, Any]], tools: Any, truth: list[dict[str, Any]], asked: Any) -> None:
    """Both are rendered to the same ids and masks, or refused for the same reason."""
    assert rendered(template, messages, tools) == rendered(template, truth, asked), template


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", ["sft_messages", "sft_prompt_completion"])
def test_trl_renders_the_truth(name: str, form: str, tmp_path: Path) -> None:
    fill = needed("trl.data_utils").prepare_multimodal_messages
    rows = loaded(name, form, tmp_path)
    assert len(rows) == len(TALKS)
    for row, (prompt, completion, tools) in zip(rows, TALKS, strict=True):
        assert (row["images"] or []) == places(prompt)
        filled = fill(row.get("messages") or row["prompt"], images=row["images"])
        filled += fill(row["completion"]) if "completion" in row else []
        shown = [part.pop("image") for one in filled for part in one["content"] if part["type"] == "image"]
        assert shown == places(prompt)
        for template in TEMPLATES:
            same(template, filled, row["tools"], parts(prompt + completion), tools)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_verl_renders_the_truth(form: str, tmp_path: Path) -> None:
    module = needed("verl.utils.dataset.rl_dataset")
    rows = loaded("verl", form, tmp_path)
    reader = SimpleNamespace(image_key="images", video_key="videos", audio_key="audios", processor=object())
    assert len(rows) == len(TALKS)
    for row, (prompt, _, _) in zip(rows, TALKS, strict=True):
        made = module.RLHFDataset._build_messages(reader, row, key="prompt")
        shown = [part.pop("image") for one in made if not isinstance(one["content"], str)
                 for part in one["content"] if part["type"] == "image"]  # fmt: skip
        assert shown == places(prompt)
        for template in TEMPLATES:
            same(template, made, None, parts(prompt), None)


@pytest.mark.parametrize("name", ["sft_messages", "sft_prompt_completion"])
def test_trl_collates_what_a_real_processor_makes_of_the_truth(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LLaVA's processor opens the files, and a batch may hold rows with two pictures, one and none."""
    collator, image = needed("trl.trainer.sft_trainer"), needed("PIL.Image")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    for color, file in (("red", "cat"), ("blue", "dog")):
        image.new("RGB", (40, 30), color).save(f"m/{file}.png")
    made = processor()
    talks = [talk for talk in TALKS if not talk[2]]
    batch = collator.DataCollatorForVisionLanguageModeling(made, max_length=None)(
        [row for row in loaded(name, "jsonl", tmp_path) if not row["tools"]]
    )
    assert len(batch["pixel_values"]) == sum(len(places(prompt)) for prompt, _, _ in talks)
    for ids, mask, (prompt, completion, _) in zip(batch["input_ids"], batch["attention_mask"], talks, strict=True):
        truth, opened = parts(prompt + completion), iter(places(prompt))
        for part in (part for message in truth for part in message["content"] if part["type"] == "image"):
            part["image"] = image.open(next(opened))
        wanted = made.apply_chat_template([truth], tokenize=True, return_dict=True)["input_ids"][0]
        assert ids[mask == 1].tolist() == list(wanted)


def processor() -> Any:
    """LLaVA's, which puts as many tokens into a picture's place as its image processor says."""
    transformers, words = needed("transformers"), tokenizer()
    words.add_special_tokens({"additional_special_tokens": ["<image>"]})
    words.image_token = "<image>"
    template = (resources.files("trl") / "chat_templates/llava_next_training.jinja").read_text(encoding="utf-8")
    size = {"height": 28, "width": 28}
    images = transformers.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=size)
    return transformers.LlavaProcessor(
        image_processor=images, tokenizer=words, patch_size=14, vision_feature_select_strategy="default",
        chat_template=template, num_additional_image_tokens=1,
    )  # fmt: skip


def split(messages: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Messages of text, each mark <image> being a part."""
    return [
        {"role": one["role"], "content": [{"type": "image"} if piece == "<image>" else text(piece)
                                          for piece in re.split("(<image>)", one["content"]) if piece]}
        for one in messages
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", ["sharegpt", "llamafactory_kto", "ms_swift", "ms_swift_kto"])
def test_marks_stand_where_the_pictures_were(
    name: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both put the pictures that a row lists in the places of its marks, in order, each model in its own way."""
    rows = loaded(name, form, tmp_path)
    assert len(rows) == len(TALKS)
    for row, (prompt, completion, tools) in zip(rows, TALKS, strict=True):
        made, shown = (swift_row if name.startswith("ms_swift") else factory_row)(row, monkeypatch)
        assert shown == places(prompt)
        for template in () if tools else TEMPLATES:
            same(template, split(made), None, parts(prompt + completion), None)


def swift_row(row: dict[str, Any], _: pytest.MonkeyPatch) -> tuple[list[dict[str, str]], list[str]]:
    """What ms-swift makes of a row: messages and the paths of pictures."""
    one = datasets.Dataset.from_list([{key: value for key, value in row.items() if value is not None}])
    (made,) = needed("swift.dataset").AutoPreprocessor()(one, strict=True, num_proc=1, load_from_cache_file=False)
    return made["messages"], [image["path"] for image in made.get("images") or []]


def factory_row(row: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[list[dict[str, str]], list[str]]:
    """What LLaMA-Factory makes of a row: messages and the paths of pictures."""
    monkeypatch.setenv("DISABLE_VERSION_CHECK", "1")
    converter, parser = needed("llamafactory.data.converter"), needed("llamafactory.data.parser")
    attributes = parser.DatasetAttr("file", dataset_name="x")
    columns = {key: key for key in ("system", "tools", "images", "kto_tag") if key in row}
    attributes.join({"formatting": "sharegpt", "columns": {"messages": "conversations", **columns}})
    convert = converter.get_dataset_converter("sharegpt", attributes, needed("llamafactory.hparams").DataArguments())
    made = convert(row)
    system = [{"role": "system", "content": made["_system"]}] if made["_system"] else []
    return [*system, *made["_prompt"], made["_response"][0]], list(made["_images"] or [])


def test_a_picture_that_a_tool_answers_with_is_refused(tmp_path: Path) -> None:
    """TRL fills no picture there, nor in a completion of its own."""
    completion = called(("look", '{"q": "cat"}'))
    completion[1]["content"] = [text("Here: "), picture("m/cat.png")]
    con = workspace(rollouts([([{"role": "user", "content": "0?"}], completion, [tool("look", "q")])]))
    for name in ("sft_messages", "sft_prompt_completion"):
        with pytest.raises(StepError, match="this format has no place for it"):
            build(con, StepUse("build", "it", f"build/{name}"), Path(), tmp_path / name, select(con, [], Path()))


def test_most_templates_render_the_truth() -> None:
    """So that the tests above do not compare refusals, and pictures are seen."""
    for template in TEMPLATES:
        made = [rendered(template, parts(prompt + completion), tools) for prompt, completion, tools in TALKS]
        fine = [one for one in made if not isinstance(one, str)]
        assert len(fine) >= 4, (template, made)
        prompt, completion, tools = TALKS[1]
        bare = [{**one, "content": [part for part in one["content"] if part["type"] == "text"]}
                for one in parts(prompt + completion)]  # fmt: skip
        assert rendered(template, bare, tools) != made[1], template

"""`schema`: print the JSON Schema of recipes, for editors."""

from __future__ import annotations

import json

from rolloutops.cli.flags import Command, Parsed


def body(parsed: Parsed) -> None:
    """Print the schema that completes and checks recipes in an editor."""
    from rolloutops.build.recipe_schema import recipe_schema

    print(json.dumps(recipe_schema(), indent=2, ensure_ascii=False))


COMMAND = Command(
    "schema",
    body,
    "Print the JSON Schema of recipes, for editors that complete and check them",
    group="Inspect and set up",
    about=(
        "Run it in the folder of your recipes, so that custom steps in ./sql are known too:\n\n"
        "    rolloutops schema > recipe.schema.json\n\n"
        "A recipe names the file in its first line, `#:schema recipe.schema.json`, for editors with taplo, e.g. "
        "VS Code with Even Better TOML."
    ),
)

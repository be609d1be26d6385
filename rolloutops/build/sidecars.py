"""What a build writes beside its data: manifest.json, a dataset card, croissant.json and report.html."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from rolloutops.build import manifest
from rolloutops.build.manifest_types import ManifestFile, RolloutCounts
from rolloutops.build.report import card, croissant, queries, report
from rolloutops.build.write import Data, sha256
from rolloutops.config.build_options import BuildOptions
from rolloutops.steps.selection import StepStats
from rolloutops.store import sql
from rolloutops.store.runs import MadeBy


def write_sidecars(
    con: sql.Connection,
    folder: Path,
    build: StepStats,
    path: Sequence[StepStats],
    data: Sequence[Data],
    files: Mapping[str, tuple[int, str]],
    rollouts: RolloutCounts,
    options: BuildOptions,
    made_by: MadeBy,
) -> dict[str, tuple[int, str]]:
    """Write the companions of a build's data into its fresh folder. Returns file name -> (rows, sha256) of each.

    con: has the lines of the build, and the tables of its rollouts. path: the steps before it. files: what is in the
    folder already. rollouts: how many the build read and used. made_by: recipe, recipe_hash, versions and git_commit
    of the command.
    """
    content = manifest.describe(con, build, path, rollouts, options, made_by)
    split_of = {one.name: one.split for one in data}
    for name, (rows, sha) in files.items():
        size = (folder / name).stat().st_size
        file: ManifestFile = {"name": name, "rows": rows, "bytes": size, "sha256": sha}
        if name in split_of:
            file = {"name": name, "split": split_of[name], "rows": rows, "bytes": size, "sha256": sha}
        content["files"].append(file)
    fields = card.fields_of(con, folder, content)
    made = {card.NAME: card.text(content, fields), croissant.NAME: croissant.text(content, fields)}
    if options.report:
        queries.prepare(con, "staging.used")
        made[report.NAME] = report.build_page(con, content)
    written = dict[str, tuple[int, str]]()
    for name, text in made.items():
        raw = text.encode()
        (folder / name).write_bytes(raw)
        written[name] = (1, hashlib.sha256(raw).hexdigest())
        content["files"].append({"name": name, "rows": 1, "bytes": len(raw), "sha256": written[name][1]})
    manifest.write(folder, content)
    return {**written, manifest.NAME: (1, sha256(folder / manifest.NAME))}

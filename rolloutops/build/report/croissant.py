"""croissant.json of a build: the same facts for machines, as MLCommons Croissant 1.0
(http://mlcommons.org/croissant/1.0)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from rolloutops.build.manifest_types import Manifest, ManifestFile
from rolloutops.build.report.card import Fields

NAME = "croissant.json"

CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataBiases": "cr:dataBiases",
    "dataCollection": "cr:dataCollection",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "personalSensitiveInformation": "cr:personalSensitiveInformation",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}

TYPES = {"VARCHAR": "sc:Text", "BIGINT": "sc:Integer", "UBIGINT": "sc:Integer", "DOUBLE": "sc:Float"}
TYPES |= {"HUGEINT": "sc:Integer", "BOOLEAN": "sc:Boolean"}
"""DuckDB's names of JSON values -> Croissant's."""

ENCODINGS = {".jsonl": "application/jsonlines", ".parquet": "application/x-parquet"}


def text(content: Manifest, fields: Fields) -> str:
    """The description. content: the build's manifest with the data files."""
    build, data = content["build"], [file for file in content["files"] if "split" in file]
    names = sorted({row["model"] for row in content["policies"] if row["model"]})
    described = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": re.sub(r"[^A-Za-z0-9_-]", "-", build["step"]),
        "description": build["about"] or build["use"],
        "version": "1.0.0",
        "rai:dataCollection": f"Rollouts of {', '.join(names) or 'models'}, selected by their verified reward.",
        "rai:dataCollectionType": "Synthetic",
        "distribution": [_file(file) for file in data],
        "recordSet": [_records(file, fields) for file in data],
    }
    return json.dumps(described, indent=2, ensure_ascii=False) + "\n"


def _file(file: ManifestFile) -> dict[str, Any]:
    ending = next((ending for ending in ENCODINGS if ending in file["name"]), ".jsonl")
    return {
        "@type": "cr:FileObject",
        "@id": file["name"],
        "name": file["name"],
        "contentUrl": file["name"],
        "contentSize": f"{file['bytes']} B",
        "encodingFormat": ENCODINGS[ending],
        "sha256": file["sha256"],
    }


def _records(file: ManifestFile, fields: Fields) -> dict[str, Any]:
    """The records of one file: a field for each column that Croissant has words for."""
    name = file["name"].split(".")[0]
    there = fields.of_file.get(file["name"], set())
    columns = {column: kind for column, kind in fields.structure.items() if column in there}
    described = (_field(f"{name}/{column}", column, kind, file["name"]) for column, kind in columns.items())
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"The {file['rows']} lines of {file['name']}, of the split {file['split']}.",
        "field": [field for field in described if field],
    }


def _field(path: str, column: str, kind: Any, file: str, key: str = "") -> dict[str, Any] | None:
    """A column, or the `key` of each object in it; None for what has no type of its own.

    Objects and lists of objects are described by their keys that hold text, numbers or booleans: there Croissant's
    reader can go no deeper.
    """
    item = kind[0] if isinstance(kind, list) and kind else kind
    repeated = {"repeated": True} if isinstance(kind, list) else {}
    field = {"@type": "cr:Field", "@id": path, "name": path.rpartition("/")[2], **repeated}
    if isinstance(item, Mapping) and not key:
        inner = [_field(f"{path}/{name}", column, inside, file, name) for name, inside in item.items() if _plain(name)]
        known = [one for one in inner if one and not one.get("repeated")]
        return {**field, "subField": known} if known else None
    if not isinstance(item, str) or item not in TYPES:
        return None
    transform = {"transform": {"jsonPath": key}} if key else {}
    source = {"fileObject": {"@id": file}, "extract": {"column": column}, **transform}
    return {**field, "dataType": TYPES[item], "source": source}


def _plain(name: str) -> bool:
    """Whether a key can be in a JSON path as it is."""
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is not None

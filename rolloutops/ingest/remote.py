"""Inputs from hf://, s3://, gs://, az:// and https://, fetched once into a folder of the user's cache.

A file lies there under its pin: the commit of a Hugging Face dataset, else the store's ETag (or date and size). The
pin is part of its path, and so of each task's `origin`. A name with a commit that is in the cache asks nothing; for any
other one request tells whether the remote file is still the one that is pinned, and a change is announced.

Hugging Face's API as huggingface_hub 2.4 uses it: GET /api/datasets/NAME/revision/REV returns `sha` and `siblings`, and
/datasets/NAME/resolve/SHA/PATH is the file. HF_ENDPOINT and HF_TOKEN are read; the token is sent there, and is
kept nowhere.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from rolloutops.config.redact import tell
from rolloutops.errors import InputError, MissingExtra
from rolloutops.layout import count

OBJECT_STORES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")
SCHEMES = ("hf", "https", "http", *OBJECT_STORES)
DATASET = re.compile(r"datasets/(?P<name>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?(?:/(?P<path>.*))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
MAGIC = re.compile(r"[*?[]")
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "GOOGLE_BASE_URL", "AZURE_STORAGE_ENDPOINT")
"""Variables that name another server for an object store; obstore reads them, and credentials, itself."""
CHUNK = 8 << 20
CLIENT = {"connect_timeout": timedelta(seconds=20), "timeout": timedelta(days=1)}
RETRIES = {"max_retries": 3, "retry_timeout": timedelta(minutes=1)}
"""How long a store is waited for: a whole file may take a day. obstore's own limit is 30 seconds for each file."""


LISTING_SECONDS = 60
"""For how long a process takes the files of an address for known: one command looks at its inputs several times."""
_listings: dict[str, tuple[float, list[RemoteFile]]] = {}


class RemoteFile(NamedTuple):
    """One file of a store. pin: what differs as soon as its content does. size: in bytes; None if not known yet."""

    path: str
    pin: str
    size: int | None


def is_remote(name: str) -> bool:
    """Whether an input's name is an address."""
    return "://" in name


def fetch(url: str, is_readable: Callable[[str], bool]) -> list[Path]:
    """Bring what an address names into the cache, where it is not there yet; return the files, sorted.

    is_readable: whether a file of a folder is an input, by its name. Raises InputError for what cannot be fetched,
    MissingExtra where obstore is not installed.
    """
    scheme, parts = url.partition("://")[0].lower(), urlsplit(url)
    if scheme not in SCHEMES:
        raise InputError(f"{url}: inputs come from this machine's disk, or from {', '.join(SCHEMES)} addresses")
    if parts.username or parts.password:
        raise InputError("an input's address holds a user name or password: pass credentials in environment variables")
    if ".." in PurePosixPath(parts.path).parts:
        raise InputError(f"{url}: an address cannot hold ..")
    if scheme == "hf":
        return _from_hugging_face(url, is_readable)
    folder = cache_folder() / scheme / (parts.netloc or "default")
    if scheme.startswith("http"):
        if parts.query or not parts.path.strip("/"):
            raise InputError(f"{url.partition('?')[0]}: name one file, without a query; download others first")
        store = _http_store(f"{scheme}://{parts.netloc}")
        path = unquote(parts.path.lstrip("/"))
        return _pinned(url, store, folder, lambda: [_head(store, path)])
    store = _object_store(url, scheme, parts.netloc)
    path = url.partition("://")[2].partition("/")[2]
    return _pinned(url, store, folder, lambda: _listed(store, path, is_readable))


def cache_folder() -> Path:
    """The folder of fetched inputs: `rolloutops/inputs` under $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rolloutops" / "inputs"


def source_of(origin: str) -> tuple[str, str] | None:
    """Return the address and the pin of a file of the cache, by its path as a task's `origin` has it; else None.

    The address of a Hugging Face dataset names the commit, so that it can be fetched again as it was.
    """
    scheme, *rest = origin.rpartition("/rolloutops/inputs/")[2].split("/")
    is_hub = scheme == "hf"
    if "/rolloutops/inputs/" not in origin or scheme not in SCHEMES or len(rest) < (4 if is_hub else 3):
        return None
    if is_hub:
        owner, name, pin, *path = rest
        return f"hf://datasets/{owner}/{name}@{pin}/{'/'.join(path)}", pin
    place, pin, *path = rest
    return f"{scheme}://{place}/{'/'.join(path)}", pin


def _from_hugging_face(url: str, is_readable: Callable[[str], bool]) -> list[Path]:
    found = DATASET.fullmatch(url.removeprefix("hf://"))
    if not found:
        raise InputError(f"{url}: write hf://datasets/ORG/NAME/FILE or hf://datasets/ORG/NAME@REVISION/FILE")
    name, revision, pattern = found["name"], unquote(found["revision"] or "main"), found["path"] or ""
    if "/" in revision:
        raise InputError(f"{url}: the revision {revision!r} contains a slash: write its commit hash instead")
    folder = cache_folder() / "hf" / name
    if COMMIT.fullmatch(revision) and not MAGIC.search(pattern) and (folder / revision / pattern).is_file():
        return [folder / revision / pattern]
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    store = _http_store(endpoint, os.environ.get("HF_TOKEN"))
    listing = folder / f"{revision}.json"

    def files() -> list[RemoteFile]:
        if COMMIT.fullmatch(revision) and listing.is_file():
            answer = json.loads(listing.read_bytes())
        else:
            answer = _json(store, f"api/datasets/{name}/revision/{revision}")
            if COMMIT.fullmatch(revision):
                _write(listing, [json.dumps(answer).encode()])
        commit, names = answer["sha"], [one["rfilename"] for one in answer["siblings"]]
        chosen = _matching(names, pattern, is_readable)
        return [RemoteFile(one, commit, None) for one in chosen]

    return _pinned(url, store, folder, files, f"datasets/{name}/resolve/{{pin}}/")


def _pinned(
    url: str, store: Any, folder: Path, list_files: Callable[[], list[RemoteFile]], prefix: str = ""
) -> list[Path]:
    """Fetch the files that are not in the cache, and announce what changed since this address was read last."""
    record = cache_folder() / "pins" / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.json"
    at, files = _listings.get(url, (0.0, []))
    if time.monotonic() - at > LISTING_SECONDS or not at:
        with _sentences(url):
            files = list_files()
        _listings[url] = time.monotonic(), files
    if not files:
        raise InputError(f"{url}: no file there that can be read")
    before = json.loads(record.read_bytes())["files"] if record.is_file() else None
    pins = {file.path: file.pin for file in files}
    if before is not None and before != pins:
        known = len(before.keys() | pins.keys())
        changed = sum(before.get(path) != pin for path, pin in pins.items()) + len(before.keys() - pins.keys())
        tell(f"{url} changed since it was read last: {changed:,} of {count(known, 'file')}")
    paths = []
    for file in files:
        path = folder / file.pin / file.path
        if ".." in PurePosixPath(file.path).parts:
            raise InputError(f"{url}: the name {file.path!r} points outside of its folder")
        if not path.is_file():
            with _sentences(url):
                _download(store, prefix.format(pin=file.pin) + file.path, path, file)
        paths.append(path)
    if before != pins:
        _write(record, [json.dumps({"url": url, "files": pins}).encode()])
    return sorted(paths)


def _download(store: Any, remote: str, path: Path, file: RemoteFile) -> None:
    import obstore

    answer = obstore.get(store, remote)
    meta = answer.meta
    if file.size is not None and (meta["size"], _pin(meta)) != (file.size, file.pin):
        raise InputError(f"{remote} changed while it was read: run the same command again")
    written = _write(path, answer.stream(min_chunk_size=CHUNK), meta["size"])
    if written != meta["size"]:
        raise InputError(f"{remote}: only {written:,} of {meta['size']:,} bytes arrived: run the same command again")


def _write(path: Path, blocks: Iterable[Any], size: int | None = None) -> int:
    """Write a file under another name, which becomes its own when all bytes are there; return how many came."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear(path)
    part = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.part")
    written = 0
    try:
        with part.open("wb") as file:
            for block in blocks:
                written += file.write(block)
            file.flush()
            os.fsync(file.fileno())
        if size is None or written == size:
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return written


def _clear(path: Path) -> None:
    """Remove what a killed process of this machine left of a file."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.{socket.gethostname()}.*.part"):
        try:
            os.kill(int(part.suffixes[-2][1:]), 0)
        except ProcessLookupError:
            part.unlink(missing_ok=True)
        except PermissionError:
            pass  # another user's, which runs


def _head(store: Any, path: str) -> RemoteFile:
    import obstore

    meta = obstore.head(store, path)
    return RemoteFile(path, _pin(meta), meta["size"])


def _listed(store: Any, pattern: str, is_readable: Callable[[str], bool]) -> list[RemoteFile]:
    """The objects that a key, a folder of keys or a glob names."""
    import obstore

    fixed = MAGIC.split(pattern)[0]
    if fixed == pattern and not pattern.endswith("/"):
        try:
            return [_head(store, pattern)]
        except FileNotFoundError:
            pass  # a folder, perhaps
    found = [one for some in obstore.list(store, prefix=fixed.rpartition("/")[0] or None) for one in some]
    if fixed == pattern:
        found = [one for some in obstore.list(store, prefix=pattern.rstrip("/")) for one in some]
    metas = {one["path"]: one for one in found}
    return [RemoteFile(n, _pin(metas[n]), metas[n]["size"]) for n in _matching(metas, pattern, is_readable)]


def _matching(names: Iterable[str], pattern: str, is_readable: Callable[[str], bool]) -> list[str]:
    """The names that a path, a folder or a glob means; of a folder those files that can be read."""
    names = sorted(names)
    if MAGIC.search(pattern):
        whole = re.compile(_regex(pattern))
        return [name for name in names if whole.fullmatch(name)]
    if pattern in names:
        return [pattern]
    folder = PurePosixPath(pattern)
    return [name for name in names if PurePosixPath(name).parent == folder and is_readable(name)]


def _regex(pattern: str) -> str:
    """A glob as a regular expression: `*` and `?` stay within a folder, `**/` reaches into subfolders."""
    found = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern)
    means = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(means.get(one) or (one if one.startswith("[") else re.escape(one)) for one in found)


def _pin(meta: Any) -> str:
    """What stands for an object's content: its version, else its ETag, else date and size; fit for a file's name."""
    name = meta["version"] or meta["e_tag"] or f"{meta['last_modified'].isoformat()}-{meta['size']}"
    plain = re.sub(r"[^A-Za-z0-9.-]+", "", name.removeprefix("W/"))
    fits = 0 < len(plain) <= 64 and not plain.startswith(".")
    return plain if fits else hashlib.sha256(name.encode()).hexdigest()[:32]


def _json(store: Any, path: str) -> Any:
    import obstore

    return json.loads(bytes(obstore.get(store, path).bytes()))


def _http_store(base: str, token: str | None = None) -> Any:
    stores = _obstore()
    headers = {"default_headers": {"Authorization": f"Bearer {token}"}} if token else {}
    client = {**CLIENT, **headers, "allow_http": base.startswith("http:")}
    return stores.HTTPStore.from_url(base, client_options=client, retry_config=RETRIES)


def _object_store(url: str, scheme: str, bucket: str) -> Any:
    stores = _obstore()
    is_plain = any(os.environ.get(name, "").startswith("http:") for name in ENDPOINTS)
    client = {**CLIENT, "allow_http": is_plain}
    with _sentences(url):
        return stores.from_url(f"{scheme}://{bucket}", client_options=client, retry_config=RETRIES)


def _obstore() -> Any:
    try:
        from obstore import store
    except ImportError:
        raise MissingExtra("an input from another machine", "hub") from None
    return store


@contextmanager
def _sentences(url: str) -> Iterator[None]:
    """Say in one sentence what a store refused. The store's own text may hold what it was sent, so it stays out."""
    from obstore import exceptions

    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{url}: no such file there") from None
    except (PermissionError, exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
        raise InputError(f"{url}: access is denied; set HF_TOKEN, or the credentials of the store") from None
    except (exceptions.BaseError, ConnectionError, TimeoutError) as error:
        first = str(error).strip().splitlines()[0][:200]
        raise InputError(f"{url} cannot be fetched: {first}") from None
    except (KeyError, TypeError, json.JSONDecodeError):
        raise InputError(f"{url}: the answer is not what Hugging Face's API returns: is HF_ENDPOINT right?") from None

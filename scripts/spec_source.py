"""Where the official test suite's scripts (.wast) come from, and which of them belong together.

A source is a folder (a checkout of the specification or of the `testsuite` repository), a tar or
zip archive of one, a git directory without a work tree, or a single script.
"""

from __future__ import annotations

import io
import pathlib
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

REFS = {
    # branch w3c-1.0 of the specification's repository
    "1.0": "f750d21dcc4903280b4db80ca81795968c5557f4",
    # testsuite of 2020-09-28: sign extension, saturating conversions and multi-value are part of
    # the core tests, bulk memory is a proposal of its own that needs no reference types
    "extensions": "18f83401a47a0e43772cf7d9f216e994bf7c7fa6",
}
"""The commit that a group of scripts is taken from, in a git directory."""

CORE_EXTENSIONS = (
    "i32", "i64",  # sign extension
    "conversions",  # saturating float-to-int
    "binary", "block", "br", "call", "call_indirect", "fac", "func", "if", "loop", "type",
)  # fmt: skip
"""Scripts of the core suite that test extensions: the last line's are of multi-value."""

BULK = ("bulk", "memory_copy", "memory_fill", "memory_init", "table_copy", "table_init")
"""Scripts of bulk memory, where it is part of the core suite."""

PROPOSAL = "proposals/bulk-memory-operations/"
"""The folder of bulk memory, where it is not."""


class SourceError(Exception):
    """A source that cannot be read, or has no scripts; the message is one line."""


@dataclass(frozen=True)
class Script:
    """A script.

    Attributes:
      name: what it is called in reports, without its extension.
      text: its contents.
    """

    name: str
    text: bytes


class Tree:
    """Files by path.

    Args:
      paths: of all files, with forward slashes. read: gives a file's contents.
    """

    def __init__(self, paths: Iterable[str], read: Callable[[str], bytes]) -> None:
        self.paths = sorted(path for path in paths if path.endswith(".wast"))
        self.read = read


def read_scripts(
    source: pathlib.Path, group: str, names: Sequence[str] = (), ref: str | None = None
) -> list[Script]:
    """The scripts of a group in a source.

    Args:
      group: "1.0" or "extensions". names: those that are wanted; all if there are none.
      ref: commit of a git directory; None: that of the group. A folder with a work tree is read as
        it is, unless a commit is given.

    Raises:
      SourceError: if the source cannot be read, or lacks what is wanted.
    """
    if source.suffix == ".wast" and source.is_file():
        return [Script(source.stem, _read(source))]
    tree = _open(source, group, ref)
    found = pick(tree.paths, group)
    if not found:
        raise SourceError(f"{source}: no scripts (.wast) of the group {group}")
    wanted = [name.removesuffix(".wast") for name in names]
    for name in wanted:
        if name not in found:
            raise SourceError(f"{source}: no script {name} in the group {group}")
    return [Script(name, tree.read(found[name])) for name in wanted or found]


def pick(paths: Sequence[str], group: str) -> dict[str, str]:
    """The paths of a group's scripts by their names, in order."""
    folders = {path.rpartition("/")[0] for path in paths}
    if not folders:
        return {}
    # A repository of the specification has more scripts than those of the core suite.
    core = [folder for folder in folders if f"/{folder}".endswith("/test/core")]
    base = min(core or folders, key=lambda folder: (folder.count("/"), folder))
    prefix = f"{base}/" if base else ""
    direct = {
        path.removeprefix(prefix).removesuffix(".wast"): path
        for path in paths
        if path.startswith(prefix) and "/" not in path.removeprefix(prefix)
    }
    if group == "1.0":
        return direct
    out = {name: direct[name] for name in CORE_EXTENSIONS if name in direct}
    bulk = {
        path.removeprefix(prefix).removeprefix("proposals/").removesuffix(".wast"): path
        for path in paths
        if path.startswith(prefix + PROPOSAL)
    }
    return out | (bulk or {name: direct[name] for name in BULK if name in direct})


def _open(source: pathlib.Path, group: str, ref: str | None) -> Tree:
    bare = (source / "HEAD").is_file() and (source / "objects").is_dir()
    if bare:
        return _git_tree(source, ref or REFS[group])
    if source.is_dir():
        if ref is not None:
            return _git_tree(source / ".git", ref)
        paths = (path.relative_to(source).as_posix() for path in source.rglob("*.wast"))
        return Tree(paths, lambda path: _read(source / path))
    if not source.exists():
        raise SourceError(f"{source}: no such file or folder")
    if zipfile.is_zipfile(source):
        archive = zipfile.ZipFile(source)
        return Tree(archive.namelist(), archive.read)
    try:
        return _tar_tree(tarfile.open(source))
    except (tarfile.TarError, EOFError):
        raise SourceError(f"{source}: neither a folder nor a tar or zip archive") from None


def _tar_tree(archive: tarfile.TarFile) -> Tree:
    members = {member.name.removeprefix("./"): member for member in archive if member.isfile()}

    def read(path: str) -> bytes:
        file = archive.extractfile(members[path])
        assert file is not None, "members are files"
        return file.read()

    return Tree(members, read)


def _git_tree(folder: pathlib.Path, ref: str) -> Tree:
    listed = _git(folder, "ls-tree", "-r", "-z", "--name-only", ref).decode().split("\0")
    paths = [path for path in listed if path.endswith(".wast")]
    packed = _git(folder, "archive", "--format=tar", ref, "--", *paths) if paths else b""
    return _tar_tree(tarfile.open(fileobj=io.BytesIO(packed))) if paths else Tree((), bytes)


def _git(folder: pathlib.Path, *args: str) -> bytes:
    try:
        done = subprocess.run(
            ["git", f"--git-dir={folder}", *args], capture_output=True, check=False
        )
    except OSError as error:
        raise SourceError(f"git cannot be run: {error.strerror}") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["git failed"]
        raise SourceError(f"{folder}: {lines[0]}")
    return done.stdout


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from None

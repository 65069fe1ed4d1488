"""What is refused leaves nothing behind: places that are not empty, backups that are damaged, foreign or made up."""

from __future__ import annotations

import errno
import gzip
import io
import json
import random
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from support.place import Place, full, sqlite_place_in
from support.store import submit

from gradq.backup import NotEmpty, UnusableBackup
from gradq.backup.contents import HEAD, MANIFEST, table_entry
from shared.errors import ConfigurationError

Entry = tuple[tarfile.TarInfo, bytes]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A service with something of everything, which no test here changes."""
    with sqlite_place_in(tmp_path_factory.mktemp("source")) as place:
        place.database.migrate()
        full(place)
        yield place


@pytest.fixture(scope="module")
def backup(source: Place) -> bytes:
    return source.save()[1]


def refused(target: Place, backup: bytes, words: str) -> None:
    with pytest.raises(UnusableBackup, match=words):
        target.restore(backup)
    assert target.untouched()


# --- places -----------------------------------------------------------------------------------------------------------


def test_a_database_with_rows_is_refused(place: Place, backup: bytes) -> None:
    submit(place.database, name="mine")
    with pytest.raises(NotEmpty, match=r"rows in (events|job_labels|jobs); choose another place with GRADQ_STATE_DIR"):
        place.restore(backup)
    assert [row["name"] for row in place.rows()["jobs"]] == ["mine"]
    assert not place.files()


def test_a_store_with_files_is_refused_and_keeps_them(target: Place, backup: bytes) -> None:
    target.put("job_0/1/model.json", b"mine")
    with pytest.raises(NotEmpty, match=r"there/artifacts is not empty; remove the files of an interrupted restore"):
        target.restore(backup)
    assert target.files() == {"job_0/1/model.json": b"mine"}


def test_a_place_where_a_worker_lives_is_refused(place: Place, backup: bytes) -> None:
    place.beat()
    with pytest.raises(NotEmpty, match="a worker uses this database; stop the service first"):
        place.restore(backup)
    assert not place.files()


def test_a_job_that_comes_in_while_the_files_are_copied_is_kept(target: Place, backup: bytes, monkeypatch: Any) -> None:
    target.database.migrate()
    put = target.store.put

    def put_and_submit(key: str, path: Path) -> Any:
        if not target.rows()["jobs"]:
            submit(target.database, name="mine")
        return put(key, path)

    monkeypatch.setattr(target.store, "put", put_and_submit)
    with pytest.raises(NotEmpty):
        target.restore(backup)
    assert [row["name"] for row in target.rows()["jobs"]] == ["mine"]
    assert not target.files()


def test_a_database_that_a_newer_gradq_has_left_is_refused_both_ways(sqlite_place: Place, backup: bytes) -> None:
    with sqlite_place.database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError, match="revision 9999, which gradq .* does not know: a newer version"):
        sqlite_place.save()
    with pytest.raises(ConfigurationError, match="9999"):
        sqlite_place.restore(backup)


def test_a_full_disk_leaves_nothing_behind(target: Place, backup: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    put, stored = target.store.put, []

    def fill_up(key: str, path: Path) -> Any:
        if len(stored) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        stored.append(key)
        return put(key, path)

    monkeypatch.setattr(target.store, "put", fill_up)
    with pytest.raises(OSError, match="No space left"):
        target.restore(backup)
    assert target.untouched()


# --- damage -----------------------------------------------------------------------------------------------------------


NO_BACKUPS = {
    "nothing": b"",
    "text": b"hello" * 1000,
    "gzip": gzip.compress(b"no tar"),
    "zeros": bytes(20_480),
}


@pytest.mark.parametrize("content", NO_BACKUPS.values(), ids=NO_BACKUPS)
def test_what_is_no_backup_is_refused(target: Place, content: bytes) -> None:
    refused(target, content, "not a backup of gradq")


def test_a_tar_of_another_program_is_refused(target: Place) -> None:
    refused(target, packed([entry("README", b"hello")]), f"it does not begin with {HEAD}")


def test_a_backup_that_was_cut_short_anywhere_is_refused(target: Place, backup: bytes) -> None:
    for end in range(0, len(backup) - 2 * 10_240, len(backup) // 25):
        refused(target, backup[:end], "truncated|damaged")


@pytest.mark.long
def test_a_flipped_bit_is_found_or_harms_nothing(target: Place, source: Place, backup: bytes) -> None:
    """At any position. A changed bit in a field or padding that tar does not read leaves the backup unchanged."""
    chance = random.Random(7)
    found = 0
    for _ in range(60):
        at = chance.randrange(len(backup))
        flipped = bytearray(backup)
        flipped[at] ^= 1 << chance.randrange(8)
        try:
            target.restore(bytes(flipped))
        except UnusableBackup:
            found += 1
            assert target.untouched()
        else:
            assert target.files() == source.files(), at
            assert target.rows()["artifacts"] == source.rows()["artifacts"], at
            clear(target)
    assert found > 20


def clear(place: Place) -> None:
    from shared.db import migrate

    for key in place.files():
        place.store.remove(key)
    place.store.fs.rm(place.store.root, recursive=True)
    with place.database.write() as session:
        session.execute(text("DELETE FROM jobs"))
        migrate.clear(session.connection())


# --- made up ----------------------------------------------------------------------------------------------------------


def entry(name: str, content: bytes, **more: Any) -> Entry:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def unpacked(backup: bytes) -> list[Entry]:
    with tarfile.open(fileobj=io.BytesIO(backup)) as tar:
        return [entry(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]


def packed(entries: list[Entry]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def with_head(backup: bytes, **changes: Any) -> bytes:
    (_, head), *rest = unpacked(backup)
    return packed([entry(HEAD, json.dumps({**json.loads(head), **changes}).encode()), *rest])


def with_rows(backup: bytes, table: str, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The backup with other rows and matching sums: a forgery."""
    import hashlib

    entries = unpacked(backup)
    names = [info.name for info, _ in entries]
    at, end = names.index(table_entry(table)), names.index(MANIFEST)
    rows = [json.loads(line) for line in gzip.decompress(entries[at][1]).splitlines()]
    for row in rows:
        change(row)
    lines = gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    manifest = json.loads(entries[end][1])
    manifest["tables"][table]["sha256"] = hashlib.sha256(lines).hexdigest()
    entries[at], entries[end] = entry(names[at], lines), entry(MANIFEST, json.dumps(manifest).encode())
    return packed(entries)


def test_a_backup_taken_apart_and_put_together_is_one_still(target: Place, source: Place, backup: bytes) -> None:
    target.restore(with_rows(backup, "artifacts", lambda row: None))
    assert target.files() == source.files()


@pytest.mark.parametrize("changes", [{"format": 2}, {"revision": "9999", "gradq": "7.0"}])
def test_a_backup_of_a_newer_gradq_is_refused_before_any_file(
    target: Place, backup: bytes, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target.store, "put", lambda *_: pytest.fail("a file was stored"))
    refused(target, with_head(backup, **changes), "made by gradq .* restore it with that version or a newer one")


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "files/../../evil",
        "/etc/evil",
        "files//evil",
        "files/./evil",
        "files/a\\..\\b",
        "files/C:evil",
        "files/",
    ],
)
def test_a_name_that_leaves_its_folder_is_refused(target: Place, backup: bytes, name: str, tmp_path: Path) -> None:
    head, *rest = unpacked(backup)
    refused(target, packed([head, entry(name, b"evil"), *rest]), "is not part of a backup")
    assert not [path for path in tmp_path.rglob("*evil*") if path.is_file()]


NOT_PLAIN = ("SYMTYPE", "LNKTYPE", "DIRTYPE", "FIFOTYPE", "CHRTYPE", "GNUTYPE_SPARSE")


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_what_is_no_plain_file_is_refused(target: Place, backup: bytes, kind: str) -> None:
    head, *rest = unpacked(backup)
    link = entry("files/job_1/1/model.json", b"", type=getattr(tarfile, kind), linkname="/etc/passwd")
    refused(target, packed([head, link, *rest]), "is not part of a backup|damaged")


def test_entries_that_do_not_belong_are_refused(target: Place, backup: bytes) -> None:
    entries = unpacked(backup)
    file = next(e for e in entries if e[0].name.startswith("files/"))
    table = next(e for e in entries if e[0].name == table_entry("jobs"))
    for more, words in (
        ([file], "occurs twice"),
        ([table], "occurs twice"),
        ([entry(table_entry("workers"), b"")], "does not have the tables of revision"),
        ([entry("files/job_0/1/more", b"")], "no row names the file job_0/1/more"),
        ([entry("more", b"")], "is not part of a backup"),
    ):
        refused(target, packed([*entries[:-1], *more, entries[-1]]), words)
    refused(target, packed([*entries, file]), "follows after the end")


def test_entries_that_are_missing_are_named(target: Place, backup: bytes) -> None:
    entries = unpacked(backup)
    file = next(info.name for info, _ in entries if info.name.startswith("files/"))
    for name, words in (
        (HEAD, "does not begin with"),
        (file, f"the file {file.removeprefix('files/')} is missing in the backup"),
        (table_entry("events"), "does not have the tables of revision"),
        (MANIFEST, "its end is missing"),
    ):
        refused(target, packed([(info, content) for info, content in entries if info.name != name]), words)


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("artifacts", {"key": "../../../etc/passwd"}),
        ("artifacts", {"key": "job_1/1/none"}),
        ("artifacts", {"name": "../model.json"}),
        ("artifacts", {"sha256": "0" * 64}),
        ("artifacts", {"key": None}),
        ("checkpoints", {"key": "/etc/passwd"}),
        ("datasets", {"folder": ".."}),
        ("datasets", {"files": {"../../x": {"size_bytes": 1, "sha256": "0" * 64}}}),
        ("datasets", {"id": "ds_/../.."}),
        ("jobs", {"id": "../.."}),
        ("jobs", {"id": None}),
    ],
)
def test_rows_that_lead_elsewhere_are_refused(target: Place, backup: bytes, table: str, change: dict[str, Any]) -> None:
    refused(target, with_rows(backup, table, lambda row: row.update(change)), "not a name|missing|damaged|is invalid")


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("jobs", {"created_at": "yesterday"}),
        ("jobs", {"created_at": 7}),
        ("jobs", {"name": None}),
        ("jobs", {"more": 1}),
        ("events", {"job_id": "job_that_is_not_there"}),
        ("events", {"seq": [1]}),
    ],
)
def test_rows_that_the_database_cannot_hold_are_refused(
    other_target: Place, backup: bytes, table: str, change: dict[str, Any]
) -> None:
    with pytest.raises(UnusableBackup):
        other_target.restore(with_rows(backup, table, lambda row: row.update(change)))
    assert other_target.untouched()

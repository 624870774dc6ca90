"""Files go into the store whole or not at all, and whoever sends them may stop."""

from datetime import timedelta
from pathlib import Path

import pytest

from app.records import now
from app.settings import Settings
from app.store import CHUNK, Store
from app.uploads import STALE_SECONDS, Uploads
from tests.worker.test_housekeeper import age


def test_a_file_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(bytes(CHUNK) + b"rest")
    store = Store(str(tmp_path / "files"))
    calls = []

    def each() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("told to stop")

    with pytest.raises(RuntimeError, match="told to stop"):
        store.put_file("jobs/a", tmp_path / "clip", each)
    assert store.files("") == []
    store.put_file("jobs/a", tmp_path / "clip", each)
    assert len(calls) == 4
    assert b"".join(store.read("jobs/a")) == store.get_bytes("jobs/a") == bytes(CHUNK) + b"rest"
    with pytest.raises(FileNotFoundError):
        store.get_bytes("jobs/b")


def test_copies_that_a_killed_api_left_go(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    settings.scratch.mkdir()
    old, new = (settings.scratch / f"uploads_up_{n}" for n in range(2))
    for path in (old, new):
        path.write_bytes(b"clip")
    age(old, STALE_SECONDS / 3600 + 1)
    Uploads(settings, None, None).clear()  # type: ignore[arg-type]
    assert [path.exists() for path in (old, new)] == [False, True]


def test_files_are_listed_a_page_at_a_time(tmp_path: Path) -> None:
    for store in (Store(str(tmp_path)), Store("memory:///")):
        for name in ("b", "a", "c"):
            store.put_bytes(f"uploads/{name}", b"clip")
        store.put_bytes("jobs/x/output.mp4", b"clip")
        first = store.files("uploads", limit=2)
        assert [file.key for file in first] == ["uploads/a", "uploads/b"]
        assert [file.key for file in store.files("uploads", after="uploads/b")] == ["uploads/c"]
        assert all(abs(now() - file.last_modified) < timedelta(minutes=1) for file in first)
        assert store.files("nothing") == []

"""What the cache promises: whole files, checksums in names, work that is made once."""

import threading
import time

import numpy as np
import pytest

from ssgr.cache import cached_array, is_sound, read_json, remove_damaged, write_atomically


def test_a_checked_file_is_known_by_its_bytes(tmp_path):
    path = write_atomically(
        tmp_path / "a" / "part.bin", lambda file: file.write_bytes(b"what was written"), checked=True
    )
    assert path.name.startswith("part-") and path.suffix == ".bin" and is_sound(path)
    for other in (b"as writteN", b"as", b""):
        path.write_bytes(other)
        assert not is_sound(path)
    assert not is_sound(path.with_name("part-0000.bin")), "not there"


def test_damaged_files_are_named_and_removed_and_others_kept(tmp_path, capsys):
    good, bad = (
        write_atomically(tmp_path / f"{name}.bin", lambda file, name=name: file.write_text(name), checked=True)
        for name in ("good", "bad")
    )
    bad.write_text("bat")
    remove_damaged(tmp_path, "*.bin")
    assert good.is_file() and not bad.exists()
    said = capsys.readouterr().err
    assert "bad-" in said and "damaged" in said and "good-" not in said


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("I/O error: No space left")])
def test_a_full_disk_leaves_nothing_and_is_named_with_its_file(error, tmp_path):
    def full(_):
        raise error

    with pytest.raises(OSError, match=r"No space left on device: .*part\.bin"):
        write_atomically(tmp_path / "part.bin", full, checked=True)
    assert not list(tmp_path.iterdir())


def test_any_other_error_passes_as_it_is(tmp_path):
    def broken(_):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        write_atomically(tmp_path / "part.bin", broken)
    assert not list(tmp_path.iterdir())


def test_an_array_is_made_once_by_whoever_comes_first_and_again_when_damaged(tmp_path, capsys):
    made = []

    def make():
        made.append(1)
        time.sleep(0.05)  # the others have to wait
        return np.arange(5, dtype=np.int32)

    threads = [threading.Thread(target=cached_array, args=(tmp_path / "key", make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and cached_array(tmp_path / "key", make).tolist() == [0, 1, 2, 3, 4]
    (stored,) = (tmp_path / "key").glob("*.npy")
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    assert cached_array(tmp_path / "key", make).dtype == np.int32
    assert len(made) == 2 and "damaged" in capsys.readouterr().err


def test_a_json_file_that_is_no_object_counts_as_none(tmp_path):
    path = tmp_path / "x.json"
    assert read_json(path) is None
    for text in ("{", "[1]", '{"a": '):
        path.write_text(text)
        assert read_json(path) is None
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}

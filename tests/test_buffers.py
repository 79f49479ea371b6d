"""Memory that is used again, and files that are let go."""

import os
import shutil
import threading

import numpy as np
import pytest
from conftest import held_files

from tileconv import buffers
from tileconv.raster.fsync import MOST_HELD, freed_aside, replace


def test_what_nobody_holds_is_taken_again_and_no_more_is_kept_than_was_held():
    pool, shape, dtype = buffers.Pool(), (2, 1024, 1024), np.dtype("uint16")
    first, second = pool.array(shape, dtype), pool.array(shape, dtype)
    first[...], second[...] = 1, 2
    places = {array.ctypes.data for array in (first, second)}
    view = first[0]
    del first
    third = pool.array(shape, dtype)  # the view still holds the first one
    assert third.ctypes.data not in places
    assert (view == 1).all()
    places.add(third.ctypes.data)
    del view, second, third
    smaller = pool.array((1000, 1000), np.dtype("float32"))
    assert smaller.ctypes.data in places
    larger = pool.array((3, 1024, 1024), dtype)  # fits nowhere: one that waits is let go
    assert larger.ctypes.data not in places
    assert len(pool._spare) == 1
    del smaller, larger
    assert len(pool._spare) == 3


def held(folder):
    return sum(str(folder) in name for name in held_files())


def wait_until_freed():
    for thread in threading.enumerate():
        if thread.name == "tileconv-free":
            thread.join()


in_linux = pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="needs Linux's O_PATH")


@in_linux
def test_an_old_file_is_let_go_once_the_new_one_is_there(tmp_path):
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "aside").symlink_to("old")
    for target in ("new", "old", "aside"):
        (tmp_path / "made").write_text(target)
        replace(tmp_path / "made", tmp_path / target)
        assert not (tmp_path / target).is_symlink()
        assert (tmp_path / target).read_text() == target
    wait_until_freed()
    assert held(tmp_path) == 0


@in_linux
def test_many_files_are_removed_at_once_and_none_stays_open(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for number in range(MOST_HELD + 5):
        (folder / f"{number}.tif").write_bytes(b"x")
    with freed_aside(folder.iterdir()):
        assert held(folder) == MOST_HELD
        shutil.rmtree(folder)
    wait_until_freed()
    assert held(folder) == 0
    with freed_aside([folder / "0.tif"]):  # there is none
        pass

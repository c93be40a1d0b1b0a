"""Writing whole or not at all: nothing is half there, nothing else is lost, nothing is left behind."""

import pytest

from perfsim.study.output import new_folder, replace_file


class StopError(Exception):
    """What goes wrong in the middle."""


def write_half(folder):
    """Write one file of several, then fail."""
    with new_folder(folder) as made:
        (made / "first.txt").write_text("new", encoding="utf-8")
        raise StopError


def test_a_new_folder_has_what_was_written(tmp_path, contents):
    """With the folders on the way to it, and nothing beside it."""
    with new_folder(tmp_path / "a" / "b") as made:
        (made / "inner").mkdir()
        (made / "inner" / "x.txt").write_text("x", encoding="utf-8")
        (made / "y.txt").write_text("y", encoding="utf-8")
        assert not (tmp_path / "a" / "b").exists()
    assert contents(tmp_path) == {"a/b/inner/x.txt": b"x", "a/b/y.txt": b"y"}


def test_a_failure_leaves_nothing(tmp_path):
    """Neither the folder nor those on the way to it nor a temporary one."""
    with pytest.raises(StopError):
        write_half(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StopError):
        write_half(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_what_was_there(tmp_path, contents):
    """To the byte."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "first.txt").write_text("old", encoding="utf-8")
    with pytest.raises(StopError):
        write_half(tmp_path / "out")
    assert contents(tmp_path) == {"out/first.txt": b"old"}


def test_old_files_are_replaced_and_others_stay(tmp_path, contents):
    """In folders within the folder too."""
    (tmp_path / "out" / "inner").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "inner/a.txt", "inner/b.txt"):
        (tmp_path / "out" / name).write_text("old", encoding="utf-8")
    with new_folder(tmp_path / "out") as made:
        (made / "inner").mkdir()
        for name in ("a.txt", "inner/a.txt"):
            (made / name).write_text("new", encoding="utf-8")
    changed = {"out/a.txt": b"new", "out/inner/a.txt": b"new"}
    assert contents(tmp_path) == {"out/b.txt": b"old", "out/inner/b.txt": b"old", **changed}


def test_the_current_folder_can_be_written_to(tmp_path, monkeypatch, contents):
    """As a dot."""
    monkeypatch.chdir(tmp_path)
    with new_folder(".") as made:
        (made / "x.txt").write_text("x", encoding="utf-8")
    assert contents(tmp_path) == {"x.txt": b"x"}


def fill(folder, name):
    """Write one file."""
    with new_folder(folder) as made:
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_text("new", encoding="utf-8")


def test_a_new_folder_is_open_to_whoever_a_plain_one_is(tmp_path):
    """Also where the temporary one is its maker's alone."""
    (tmp_path / "plain").mkdir()
    fill(tmp_path / "out", "x.txt")
    with replace_file(tmp_path / "y.bin") as stream:
        stream.write(b"y")
    (tmp_path / "plain.bin").touch()
    for mine, plain in (("out", "plain"), ("y.bin", "plain.bin"), ("out/x.txt", "plain.bin")):
        assert (tmp_path / mine).stat().st_mode == (tmp_path / plain).stat().st_mode


def test_a_link_to_a_folder_is_followed(tmp_path, contents):
    """What is written lies behind it, and the link stays."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    fill(tmp_path / "link", "x.txt")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "real") == {"x.txt": b"new"}


@pytest.mark.parametrize("folder", [None, 3, b"out"])
def test_what_is_no_path_is_refused(refused, folder):
    """Before anything is written."""
    (fault,) = refused(fill, folder, "x.txt")
    assert (fault.field, fault.value) == ("folder", folder)


def test_a_name_that_no_file_system_takes_is_refused(refused, tmp_path):
    """With the reason that the system gives."""
    (fault,) = refused(fill, tmp_path / ("x" * 300), "x.txt")
    assert "cannot be written to (File name too long)" in fault.allowed
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_refused(refused, tmp_path, contents):
    """And stays."""
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    (fault,) = refused(fill, tmp_path / "out", "x.txt")
    assert (fault.field, fault.allowed) == ("folder", "is a file")
    assert contents(tmp_path) == {"out": b"mine"}


def test_a_place_that_cannot_be_written_to_is_refused(refused, tmp_path):
    """Below a file there is no folder."""
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (fault,) = refused(fill, tmp_path / "file" / "out", "x.txt")
    assert fault.way_out == "give a place that you may write to"


@pytest.mark.parametrize(("there", "written"), [("x.txt/y", "x.txt"), ("inner", "inner/x.txt")])
def test_what_is_in_the_way_inside_is_refused(refused, tmp_path, contents, there, written):
    """A folder in place of a file, or a file in place of a folder; nothing is replaced then."""
    path = tmp_path / "out" / there
    path.parent.mkdir(parents=True)
    path.write_text("mine", encoding="utf-8")
    refused(fill, tmp_path / "out", written)
    assert contents(tmp_path) == {f"out/{there}": b"mine"}


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, contents):
    """The old one is there until the new one is complete."""
    target = tmp_path / "deep" / "x.bin"
    with replace_file(target) as stream:
        stream.write(b"old")
        assert not target.exists()

    def fail():
        with replace_file(target) as stream:
            stream.write(b"ne")
            raise StopError

    with pytest.raises(StopError):
        fail()
    assert contents(tmp_path) == {"deep/x.bin": b"old"}


def test_a_folder_in_place_of_the_file_is_refused(refused, tmp_path):
    """Rather than written into."""

    def write(path):
        with replace_file(path) as stream:
            stream.write(b"x")

    (fault,) = refused(write, tmp_path)
    assert fault.allowed == "is a folder"

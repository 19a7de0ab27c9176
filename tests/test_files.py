"""Files that are whole or as they were."""

import pytest

from r1jax.files import replaced, write_whole


@pytest.mark.parametrize("shared", [False, True])
def test_what_fails_half_way_leaves_the_old_file_alone(tmp_path, shared):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), replaced(path, shared) as partial:
        partial.write_text("ne")
        raise OSError("full")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with replaced(path, shared) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_text_is_written_whole(tmp_path):
    write_whole(tmp_path / "a", "größer\n")
    assert (tmp_path / "a").read_bytes() == "größer\n".encode()
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "none" / "a", "")

"""Lines are kept whole: what a killed writer left of one is neither read nor kept."""

from pathlib import Path

from elasticvit.json_lines import complete_lines, open_to_append


def test_lines_are_added_behind_whole_ones_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lines"
    for line in (b"one\n", b"two\nth"):
        with open_to_append(path) as file:
            file.write(line)
    assert complete_lines(path) == ["one", "two"]
    with open_to_append(path) as file:
        file.seek(0)
        assert file.readline() == b"one\n"
        file.write(b"three\n")
    assert path.read_bytes() == b"one\ntwo\nthree\n"


def test_a_file_that_is_all_one_incomplete_line_starts_over(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"on")
    assert complete_lines(path) == []
    with open_to_append(path) as file:
        file.write(b"one\n")
    assert path.read_bytes() == b"one\n"

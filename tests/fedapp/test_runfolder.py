"""The run folder's event file, as its readers see it."""

from __future__ import annotations

from pathlib import Path

from fedapp.store.runfolder import RunFolder


def test_new_events_are_read_once_and_torn_lines_wait(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.events_since(0) == ([], 0)
    folder.append({"round": 1, "loss": float("nan")})
    folder.append({"round": 2})
    events, offset = folder.events_since(0)
    assert events == [{"round": 1, "loss": None}, {"round": 2}]
    with open(folder.events_file, "a", encoding="utf-8") as file:
        file.write('{"round": 3')
    assert folder.events_since(offset) == ([], offset)
    with open(folder.events_file, "a", encoding="utf-8") as file:
        file.write("}\n")
    assert folder.events_since(offset)[0] == [{"round": 3}]


def test_a_rewound_file_is_shorter_than_the_offset(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for number in range(1, 5):
        folder.append({"event": "round", "round": number})
    _, offset = folder.events_since(0)
    folder.rewind(2)
    assert [event["round"] for event in folder.events()] == [1, 2]
    events, offset = folder.events_since(offset)
    assert events == [] and offset == folder.events_file.stat().st_size
    folder.append({"event": "round", "round": 3})
    assert folder.events_since(offset)[0] == [{"event": "round", "round": 3}]

"""What programs said of themselves is remembered, and forgotten with the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from niclab.agents.bundle.store import remembered
from niclab.errors import LabError


class Program:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked = 0
        self.write("1.18.10")

    def write(self, version: str) -> None:
        self.path.write_text(version)

    def ask(self) -> str:
        self.asked += 1
        return self.path.read_text()

    def answer(self, question: str = "version") -> str:
        return remembered(self.path, question, self.ask)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    monkeypatch.setenv("NICLAB_HOME", str(tmp_path / "home"))
    return Program(tmp_path / "cilium-agent")


def test_a_program_is_asked_once(program: Program) -> None:
    assert [program.answer(), program.answer()] == ["1.18.10"] * 2
    assert program.asked == 1
    program.answer("another question")
    assert program.asked == 2


def test_a_new_build_is_asked_again_whatever_its_time_and_size_say(program: Program) -> None:
    program.answer()
    before = program.path.stat()
    program.write("1.18.11")
    os.utime(program.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert program.answer() == "1.18.11"
    replaced = program.path.with_name("next")
    replaced.write_text("1.18.12")
    os.utime(replaced, ns=(before.st_atime_ns, before.st_mtime_ns))
    replaced.rename(program.path)
    assert program.answer() == "1.18.12"


def test_a_failure_is_not_remembered(program: Program) -> None:
    def fail() -> str:
        raise LabError("it does not run")

    with pytest.raises(LabError):
        remembered(program.path, "version", fail)
    assert program.answer() == "1.18.10"


def test_without_a_place_to_write_everything_is_asked(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    (program.path.parent / "file").touch()
    monkeypatch.setenv("NICLAB_HOME", str(program.path.parent / "file" / "below"))
    assert [program.answer(), program.answer()] == ["1.18.10"] * 2
    assert program.asked == 2

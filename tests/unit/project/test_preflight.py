"""What a newcomer reads when something is missing: one sentence that says what to do, before anything is installed."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.project import ROOT

SHELL_TOOLS = ("sh", "sed", "dirname", "id", "rm", "printf")


class Machine:
    """A PATH of our own making: the shell's tools and only those programs that a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder
        for tool in SHELL_TOOLS:
            found = shutil.which(tool)
            if found:
                (folder / tool).symlink_to(found)

    def put(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def put_python(self, name: str = "python3") -> None:
        self.put(name, f'exec "{sys.executable}" "$@"')

    def check(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.bin / "sh"), str(ROOT / ".ci/preflight.sh"), *arguments],
            env={"PATH": str(self.bin), **environment},
            capture_output=True,
            text=True,
            timeout=30,
        )

    def refusal(self, *arguments: str, **environment: str) -> str:
        """The sentence of a check that must fail: one line, no traceback."""
        done = self.check(*arguments, **environment)
        assert done.returncode == 1, done
        assert done.stderr.startswith("patchbay: ")
        assert len(done.stderr.splitlines()) == 1
        return done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    folder = tmp_path / "bin"
    folder.mkdir()
    return Machine(folder)


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_the_newest_usable_python_is_named(machine: Machine) -> None:
    machine.put("python3.13", "exit 127")
    machine.put_python("python3.11")
    assert machine.check("python").stdout.strip() == str(machine.bin / "python3.11")


def test_without_python_the_sentence_says_how_to_get_it(machine: Machine) -> None:
    assert "Python 3.11 or newer is needed" in machine.refusal("python")


def test_an_old_python_is_named_with_its_version(machine: Machine) -> None:
    machine.put("python3", 'case "$2" in *platform*) echo 3.9.2 ;; *) exit 1 ;; esac')
    sentence = machine.refusal("python")
    assert "python3 is 3.9.2" in sentence
    assert "PYTHON=" in sentence


def test_a_python_without_venv_names_the_debian_package(machine: Machine) -> None:
    machine.put("python3", 'case "$2" in *ensurepip*) exit 1 ;; esac')
    assert "apt install python3-venv" in machine.refusal("python")


def test_a_named_python_is_used_as_it_is(machine: Machine) -> None:
    machine.put_python("mine")
    assert machine.check("python", PYTHON="mine").stdout.strip() == str(machine.bin / "mine")


def test_a_broken_virtual_environment_is_named(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "venv").mkdir()
    assert "make clean-venv" in machine.refusal("venv", str(tmp_path / "venv"))


def test_no_virtual_environment_yet_is_fine(machine: Machine, tmp_path: Path) -> None:
    assert machine.check("venv", str(tmp_path / "absent")).returncode == 0


def test_without_node_the_sentence_says_how_to_get_it(machine: Machine) -> None:
    assert "node is not on the PATH" in machine.refusal("node")


@pytest.mark.parametrize("version", ["v18.20.4", "v20.18.1", "v21.7.0", "v22.11.0"])
def test_a_node_that_cannot_build_is_refused_with_its_version(machine: Machine, version: str) -> None:
    machine.put("node", f"echo {version}")
    machine.put("npm", "exit 0")
    assert f"this is {version[1:]}" in machine.refusal("node")


@pytest.mark.parametrize("version", ["v20.19.0", "v20.20.2", "v22.12.0", "v24.1.0"])
def test_a_node_that_can_build_is_accepted(machine: Machine, version: str) -> None:
    machine.put("node", f"echo {version}")
    machine.put("npm", "exit 0")
    assert machine.check("node").returncode == 0


def test_a_node_that_says_nonsense_is_refused(machine: Machine) -> None:
    machine.put("node", "echo segmentation fault")
    assert "which is no version" in machine.refusal("node")


def test_node_without_npm_names_the_package(machine: Machine) -> None:
    machine.put("node", "echo v20.19.0")
    assert "apt install npm" in machine.refusal("node")


def test_a_folder_that_cannot_be_written_is_named(machine: Machine) -> None:
    # Refuses everybody, root included, which no chmod does.
    assert "No permission to write in /proc" in machine.refusal("write", "/proc/patchbay")


def test_a_file_in_place_of_the_data_folder_is_named(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "var").write_text("")
    assert "PATCHBAY_DATA_DIR" in machine.refusal("write", str(tmp_path / "var"))


def test_a_folder_not_made_yet_counts_as_its_parent(machine: Machine, tmp_path: Path) -> None:
    assert machine.check("write", str(tmp_path / "a/b/c")).returncode == 0
    assert list(tmp_path.glob(".patchbay*")) == []


def test_a_taken_port_offers_the_next_one(machine: Machine, listener: int) -> None:
    machine.put_python()
    sentence = machine.refusal("port", "127.0.0.1", str(listener))
    assert f"Port {listener} is taken" in sentence
    assert f"make up PORT={listener + 1}" in sentence


@pytest.mark.parametrize("port", ["eight", "0", "70000", "-1", ""])
def test_a_port_that_is_none_is_refused(machine: Machine, port: str) -> None:
    machine.put_python()
    assert "must be a number from 1 to 65535" in machine.refusal("port", "127.0.0.1", port)


def test_a_host_that_is_none_is_refused(machine: Machine) -> None:
    machine.put_python()
    assert "Leave it out for 127.0.0.1" in machine.refusal("port", "no.such.host.invalid", "8000")


def test_a_free_port_is_fine(machine: Machine, unused_port: Callable[[], int]) -> None:
    machine.put_python()
    assert machine.check("port", "127.0.0.1", str(unused_port())).returncode == 0


@pytest.fixture
def unused_port() -> Callable[[], int]:
    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


def test_make_up_stops_at_the_first_refusal_and_installs_nothing(machine: Machine, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("Makefile", "requirements.lock", ".ci"):
        (clone / name).symlink_to(ROOT / name)
    for tool in ("make", "grep", "find"):
        found = shutil.which(tool)
        assert found
        (machine.bin / tool).symlink_to(found)
    done = subprocess.run(
        [str(machine.bin / "make"), "up"],
        cwd=clone,
        env={"PATH": str(machine.bin), "HOME": os.environ.get("HOME", "/")},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode != 0
    assert "patchbay: Python 3.11 or newer is needed" in done.stderr
    assert not (clone / ".venv").exists()

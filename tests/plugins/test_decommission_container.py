"""decommission_container without containers: what is refused, and what a drain command is."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import decommission_container
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensu_lxc import acting, commands, owned, plugin, states
from sensu_lxc.host import Host
from sensu_lxc.sources import ownership

SCRIPT = pathlib.Path(__file__).parents[2] / "plugins" / "decommission_container.py"
RECORD = ownership.Record("web-17", ownership.READY, {"template": "busybox"}, 1700000000.5)
NAME = acting.name_of("auto", "web-17")


def run_script(*arguments: str, **options: Any) -> "tuple[int, dict[str, Any]]":
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=30, check=False, **options
    )
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


class TestRefuses:
    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["--request-id=x", "-n", "y"],
            ["--request-id=a b"],
            ["--request-id="],
            ["-n", "a/b"],
            ["-n", ".."],
            ["-n", "$(reboot)"],
            ["-n", "auto-x", "--name-prefix=auto"],
            ["--request-id=x", "--name-prefix=A"],
            ["--request-id=x", "surplus"],
            ["--request-id=x", "--keep-archive"],
            ["--request-id=x", "--force"],
            ["--request-id=x", "--force-drain"],
            ["--request-id=x", "--drain="],
            ["--request-id=x", "--drain={name}"],
            ["--request-id=x", "--drain=/bin/true"],
            ["--request-id=x", "--drain=/bin/true {nmae}"],
            ["--request-id=x", "--drain=/bin/true {name} {host}"],
            ["--request-id=x", "--drain=/bin/true '{name}"],
            ["--request-id=x", "--drain=/no/such/program {name}"],
            ["--request-id=x", "--drain=no-such-program {name}"],
            ["--request-id=x", "--drain=bin/true {name}"],
            ["--request-id=x", "--drain=/etc/passwd {name}"],
            ["--request-id=x", "--drain=/bin {name}"],
            ["--request-id=x", "--drain-timeout=0"],
            ["--request-id=x", "--stop-timeout=soon"],
            ["--request-id=x", "--timeout=--"],
            ["--request-id=x", "-P", "relative"],
            ["--request-id=x", "--request-id=y"],
        ],
    )
    def test_a_command_line(self, arguments: "list[str]") -> None:
        with pytest.raises(plugin.Misuse) as caught:
            decommission_container.validated(arguments)
        assert str(caught.value).isprintable()

    def test_a_drain_command_that_others_can_change(self, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "drain"
        path.write_text("#!/bin/sh\n")
        path.chmod(0o777)
        with pytest.raises(plugin.Misuse, match="can be changed by others"):
            decommission_container.validated(["--request-id=x", f"--drain={path} {{name}}"])
        path.chmod(0o755)
        options = decommission_container.validated(["--request-id=x", f"--drain={path} {{name}}"])
        assert options.drain == [str(path), "{name}"]

    def test_the_lxcpath_of_lxd(self) -> None:
        status, answer = run_script("--request-id=x", "-P", "/var/lib/lxd/containers")
        assert (status, "lxc delete" in answer["error"]) == (3, True)

    def test_an_lxcpath_that_is_not_there(self, tmp_path: pathlib.Path) -> None:
        """Not "gone": a filesystem that is not mounted looks so too."""
        status, answer = run_script("--request-id=x", "-P", str(tmp_path / "none"))
        assert (status, "removed" in answer) == (3, False)
        assert "no directory that can be written" in answer["error"]

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
    def test_nobody(self, tmp_path: pathlib.Path) -> None:
        tmp_path.chmod(0o755)
        status, answer = decommission_as_nobody(str(tmp_path))
        assert status == 3
        assert "run it as root (sudo -n)" in answer["error"]

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
    @pytest.mark.parametrize("which", [["--request-id=x", "--name-prefix=wrong"], ["-n", "wrong"]])
    @pytest.mark.parametrize("dry", [[], ["--dry-run"]])
    def test_none_is_gone_but_not_silently(self, tmp_path: pathlib.Path, which: "list[str]", dry: "list[str]") -> None:
        status, answer = run_script(*which, *dry, "-P", str(tmp_path))
        assert (status, answer["state"], answer.get("removed", False)) == (0, "GONE", False)
        assert f"nothing was there: there is no container {answer['name']} in {tmp_path}" in answer["note"]

    def test_says_what_is_wrong_in_one_json_line(self) -> None:
        status, answer = run_script("--request-id", "a b")
        assert (status, answer["name"], answer["left"]) == (3, None, [])


def decommission_as_nobody(lxcpath: str) -> "tuple[int, dict[str, Any]]":
    """In a process of its own that became nobody once all was imported: the checkout need not be readable by others."""
    code = (
        f"import sys, os; sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        f"sys.argv = ['x', '--request-id=x', '-P', {lxcpath!r}]\n"
        "import json, decommission_container, base64, hashlib, shutil, sensu_lxc.sources.mountinfo\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); decommission_container.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, cwd="/")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.returncode, json.loads(done.stdout)


class TestDrain:
    def options(self, *words: str) -> argparse.Namespace:
        return decommission_container.validated(["--request-id=x", *words])

    def work(self, *words: str) -> decommission_container.Removal:
        return decommission_container.Removal(Host(), "/lxc", "auto-x", self.options(*words), acting.Stop())

    def test_is_split_into_words_and_knows_the_name(self) -> None:
        work = self.work("--drain=true 'web {name}' {name} {name}.example $HOME ;reboot {\"a\":1}")
        assert work.drain[0].endswith("/true")
        assert work.drain[1:] == ["web auto-x", "auto-x", "auto-x.example", "$HOME", ";reboot", "{a:1}"]

    def test_is_none_where_none_is_given(self) -> None:
        assert self.work().drain == []

    @given(st.text(max_size=60))
    def test_whatever_is_a_command_or_said_to_be_none(self, words: str) -> None:
        try:
            argv = decommission_container.a_command(words)
        except argparse.ArgumentTypeError as problem:
            assert str(problem).isprintable()
        else:
            assert any("{name}" in word for word in argv[1:])


class TestRefusedByLxc:
    """What is made of a container between our look and that of lxc-destroy, which then says no."""

    @pytest.fixture
    def directory(self, tmp_path: pathlib.Path) -> pathlib.Path:
        owned.claim(str(tmp_path), NAME, RECORD)
        directory = tmp_path / NAME
        (directory / "rootfs").mkdir()
        (directory / "config").write_text(f"lxc.rootfs.path = dir:{directory}/rootfs\n")
        return directory

    def remove(self, directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch, meanwhile: Any) -> None:
        def run(argv: "list[str]", seconds: float, **options: Any) -> commands.Finished:
            meanwhile()
            return commands.Finished(1, b"", "")

        monkeypatch.setattr(owned.commands, "run", run)
        owned.remove(Host(), str(directory.parent), NAME)

    @pytest.mark.parametrize(
        "path, content, words",
        [
            ("NAME/lxc_snapshots", "/lxc\na\n/lxc\nb\n", r"share its root filesystem \(/lxc/a, /lxc/b\); lxc-destroy"),
            ("NAME/lxc_snapshots", "/l\na\n/l\nb\n/l\nc\n/l\nd\n/l\ne\n", r"\(/l/a, /l/b, /l/c and 2 more\)"),
            ("NAME/lxc_snapshots", "2\n", "share its root filesystem; lxc-destroy"),
            ("NAME/lxc_snapshots", "", "share its root filesystem; lxc-destroy"),
            ("NAME/snaps/snap0/config", "", "its snapshots in .*/NAME/snaps"),
            ("../lxcsnaps/NAME/snap0/config", "", "its snapshots in .*/lxcsnaps/NAME"),
        ],
    )
    def test_for_what_depends_on_it(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, path: str, content: str, words: str
    ) -> None:
        lxcpath = tmp_path / "lxc"
        lxcpath.mkdir()
        owned.claim(str(lxcpath), NAME, RECORD)
        directory = lxcpath / NAME
        (directory / "config").write_text(f"lxc.rootfs.path = dir:{directory}/rootfs\n")
        made = pathlib.Path(os.path.normpath(lxcpath / path.replace("NAME", NAME)))

        def meanwhile() -> None:
            made.parent.mkdir(parents=True, exist_ok=True)
            made.write_text(content)

        with pytest.raises(owned.CannotAct, match="is not removed: .*" + words.replace("NAME", NAME)):
            self.remove(directory, monkeypatch, meanwhile)
        assert owned.record(Host(), str(directory)) == RECORD
        assert os.listdir(lxcpath) == [NAME]
        # And where it is there from the beginning lxc-destroy is not even asked.
        with pytest.raises(owned.CannotAct, match=words.replace("NAME", NAME)):
            self.remove(directory, monkeypatch, lambda: pytest.fail("lxc-destroy was run"))

    def test_as_it_was_started(self, directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        running = states.State("RUNNING", "", "")
        with pytest.raises(owned.CannotAct, match="somebody started it meanwhile, it is RUNNING"):
            self.remove(directory, monkeypatch, lambda: monkeypatch.setattr(owned, "state", lambda *one: running))
        assert (directory / "rootfs").is_dir()

    @pytest.mark.parametrize("state", [ownership.CREATING, ownership.READY])
    def test_half_made_one_has_no_veto(
        self, directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch, state: str
    ) -> None:
        owned.write_record(str(directory), RECORD._replace(state=state))
        with open(directory / "config", "a") as config:
            config.write("lxc.hook.destroy = /bin/false\n")
        if state == ownership.CREATING:
            self.remove(directory, monkeypatch, lambda: None)
        else:
            with pytest.raises(owned.CannotAct, match="which may forbid it"):
                self.remove(directory, monkeypatch, lambda: None)
        assert directory.exists() is (state == ownership.READY)

    def test_whose_record_went_stays_ours(self, directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def meanwhile() -> None:
            (directory / ownership.FILE).unlink()
            (directory / "lxc_snapshots").touch()

        with pytest.raises(owned.CannotAct, match="share its root filesystem"):
            self.remove(directory, monkeypatch, meanwhile)
        assert owned.record(Host(), str(directory)) == RECORD._replace(state=ownership.CREATING)

    def test_what_it_can_not_remove_is_removed(self, directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.remove(directory, monkeypatch, lambda: None)
        assert os.listdir(directory.parent) == []


class TestRemovalCutShort:
    """The record is one file of many, and lxc-destroy takes them in no order."""

    def claimed(self, tmp_path: pathlib.Path) -> pathlib.Path:
        owned.claim(str(tmp_path), NAME, RECORD)
        directory = tmp_path / NAME
        (directory / "rootfs").mkdir()
        return directory

    def notice(self, tmp_path: pathlib.Path, inode: int) -> pathlib.Path:
        path = tmp_path / f".sensu-lxc.{NAME}.removing"
        path.write_text(f"{inode}\n{ownership.text(RECORD._replace(state=ownership.CREATING))}")
        return path

    def test_is_still_ours_without_the_record(self, tmp_path: pathlib.Path) -> None:
        directory = self.claimed(tmp_path)
        self.notice(tmp_path, directory.stat().st_ino)
        (directory / ownership.FILE).unlink()
        assert owned.record(Host(), str(directory)) == RECORD._replace(state=ownership.CREATING)
        owned.remove(Host(), str(tmp_path), NAME)
        assert os.listdir(tmp_path) == []

    def test_another_directory_of_the_name_is_not(self, tmp_path: pathlib.Path) -> None:
        directory = self.claimed(tmp_path)
        self.notice(tmp_path, directory.stat().st_ino + 1)
        (directory / ownership.FILE).unlink()
        assert owned.record(Host(), str(directory)) is None
        with pytest.raises(owned.CannotAct, match="did not make it"):
            owned.remove(Host(), str(tmp_path), NAME)
        assert (directory / "rootfs").is_dir()

    def test_leaves_nothing_once_all_is_gone(self, tmp_path: pathlib.Path) -> None:
        self.notice(tmp_path, 7)
        (tmp_path / f".sensu-lxc.{NAME}.removing.new").touch()
        claimed = tmp_path / f".sensu-lxc.{NAME}.new"  # and never renamed
        claimed.mkdir()
        (claimed / ownership.FILE).touch()
        owned.remove(Host(), str(tmp_path), NAME)
        assert os.listdir(tmp_path) == []

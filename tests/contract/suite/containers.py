"""The contract's rules about containers."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from typing import Any

import pytest

from docker_rollback._engine import Change, ContainerFilter, Engine
from docker_rollback.errors import ContainerNotFoundError, EngineConflictError, EngineError, ImageNotFoundError
from tests.contract.suite.lab import LINES, Contract, Eyes, Lab, tar_of

_VERBS: dict[str, Callable[[Engine, str], Any]] = {
    "inspect": lambda engine, ref: engine.inspect_container(ref),
    "start": lambda engine, ref: engine.start_container(ref),
    "stop": lambda engine, ref: engine.stop_container(ref),
    "kill": lambda engine, ref: engine.kill_container(ref),
    "pause": lambda engine, ref: engine.pause_container(ref),
    "unpause": lambda engine, ref: engine.unpause_container(ref),
    "rename": lambda engine, ref: engine.rename_container(ref, "contract-renamed"),
    "update": lambda engine, ref: engine.update_container(ref, {"RestartPolicy": {"Name": "no"}}),
    "commit": lambda engine, ref: engine.commit_container(ref, "contract-none:1"),
    "put": lambda engine, ref: engine.put_archive(ref, tar_of("file", b"")),
    "get": lambda engine, ref: engine.get_archive(ref, "/"),
    "changes": lambda engine, ref: engine.container_changes(ref),
    "logs": lambda engine, ref: engine.container_logs(ref, tail=1),
    "exec": lambda engine, ref: engine.exec(ref, ["true"]),
}


class ContainerContract(Contract):
    """How containers are found, made, changed and removed."""

    def test_info_says_who_the_engine_is(self, engine: Engine) -> None:
        """An engine says who it is, in the words that a backup keeps."""
        info = engine.info()
        assert info.flavour in ("docker", "podman", "fake")
        assert re.match(r"\d+\.\d+", info.version)
        assert re.fullmatch(r"\d+\.\d+", info.api_version)
        assert info.architecture not in ("", "amd64", "arm64")
        assert info.root.startswith("/")
        assert info.identity
        assert info.record().identity == engine.info().identity == info.identity

    def test_a_container_is_created_as_asked(self, engine: Engine, lab: Lab, eyes: Eyes) -> None:
        """A container is created with the name and the configuration of the request, and does not run yet."""
        name = lab.name()
        made = lab.created(name=name, Env=["A=1", "B=x=y"], WorkingDir="/tmp")
        found = engine.inspect_container(made)
        assert re.fullmatch(r"[0-9a-f]{64}", made)
        assert (found["Id"], found["Name"], found["State"]["Status"]) == (made, f"/{name}", "created")
        assert found["Config"]["Cmd"] == ["sleep", "600"]
        assert {"A=1", "B=x=y"} <= set(found["Config"]["Env"])
        assert found["Config"]["WorkingDir"] == "/tmp"
        assert found["Config"]["Labels"].items() >= lab.labels.items()
        assert eyes.container(made) == "created"

    def test_a_container_is_found_by_name_and_id(self, engine: Engine, lab: Lab) -> None:
        """A name, the name as an inspection shows it, a full id and twelve digits of it mean the same container."""
        name = lab.name()
        made = lab.created(name=name)
        for ref in (name, f"/{name}", made, made[:12]):
            assert engine.inspect_container(ref)["Id"] == made

    def test_only_podman_has_an_inspection_of_its_own(self, engine: Engine, lab: Lab) -> None:
        """Podman's own API shows the same container, by its name and by its id; no other engine has one."""
        name = lab.name()
        made = lab.created(name=name)
        for ref in (name, f"/{name}", made, made[:12]):
            found = engine.inspect_container(ref).get("Native")
            if engine.info().flavour != "podman":
                assert found is None
            else:
                assert found is not None
                assert (found["Id"], found["Name"], found["Config"]["Umask"]) == (made, name, "0000")

    def test_a_container_of_an_id_shows_the_id_or_on_podman_the_newest_name(self, engine: Engine, lab: Lab) -> None:
        """Podman shows no id of an image that has a name; by a name, every engine shows that one."""
        image, podman = str(engine.inspect_image(lab.image)["Id"]), engine.info().flavour == "podman"
        older, newer = lab.tag(), lab.tag()
        for tag in (older, newer, older, newer):
            engine.tag_image(image, tag)
        for asked, shown in ((image, newer if podman else image), (older, older)):
            reference = engine.inspect_container(lab.created(Image=asked))["Config"]["Image"]
            assert str(reference).removeprefix("docker.io/library/").removeprefix("localhost/") == shown

    def test_the_beginning_of_a_container_id_is_no_name(self, engine: Engine, lab: Lab, eyes: Eyes) -> None:
        """A few digits that an id begins with name no container, so a name like "db" never means another's id."""
        made = lab.created()
        for digits in (1, 2, 4, 11):
            with pytest.raises(ContainerNotFoundError):
                engine.inspect_container(made[:digits])
            engine.remove_container(made[:digits], force=True)
        assert eyes.container(made) == "created"

    @pytest.mark.parametrize("verb", _VERBS)
    def test_an_unknown_container_is_not_found(self, engine: Engine, lab: Lab, verb: str) -> None:
        """Whatever is asked of a container that is not there, the error says so and names it."""
        name = lab.name()
        for ref in (name, "ab" * 32):
            with pytest.raises(ContainerNotFoundError) as caught:
                _VERBS[verb](engine, ref)
            assert caught.value.name == ref
            assert ref[:12] in str(caught.value)

    def test_an_engine_tells_its_time(self, engine: Engine, lab: Lab) -> None:
        """By the clock by which it says when a container was started."""
        before = engine.now()
        container = lab.running()
        after = engine.now()
        started = datetime.fromisoformat(engine.inspect_container(container)["State"]["StartedAt"])
        assert before <= started <= after

    @pytest.mark.parametrize("ref", ["", ".", "..", "no/such", "../info", "json", "a?b", "%2e"])
    def test_what_cannot_be_a_container_is_not_found(self, engine: Engine, ref: str) -> None:
        """What could lead a request astray is a name that no container has."""
        with pytest.raises(ContainerNotFoundError):
            engine.inspect_container(ref)

    def test_a_taken_container_name_is_a_conflict(self, engine: Engine, lab: Lab, eyes: Eyes) -> None:
        """A second container of the same name is a conflict, and no secret of it is told."""
        name = lab.name()
        first = lab.created(name=name)
        with pytest.raises(EngineConflictError) as caught:
            engine.create_container(name, lab.request(Env=["PASSWORD=hunter2-hunter2"]))
        assert "hunter2" not in str(caught.value)
        assert caught.value.permanent
        assert engine.inspect_container(name)["Id"] == first
        assert eyes.container(first) == "created"

    def test_a_container_of_an_unknown_image_is_not_created(self, engine: Engine, lab: Lab) -> None:
        """A container of an image that is not there is not created, and the error names the image."""
        name = lab.name()
        with pytest.raises(ImageNotFoundError) as caught:
            engine.create_container(name, {**lab.request(), "Image": "contract-none:1"})
        assert caught.value.name == "contract-none:1"
        with pytest.raises(ContainerNotFoundError):
            engine.inspect_container(name)

    def test_start_is_harmless_where_it_runs(self, engine: Engine, lab: Lab, eyes: Eyes) -> None:
        """A container that runs is not started again."""
        made = lab.running()
        begun = engine.inspect_container(made)["State"]["StartedAt"]
        engine.start_container(made)
        assert engine.inspect_container(made)["State"]["StartedAt"] == begun
        assert eyes.container(made) == "running"

    def test_stop_is_harmless_where_it_does_not_run(self, engine: Engine, lab: Lab, eyes: Eyes) -> None:
        """A container stops, and stopping it again or before it ever ran changes nothing."""
        made = lab.running()
        engine.stop_container(made)
        ended = engine.inspect_container(made)["State"]
        assert (ended["Status"], ended["Running"], ended["ExitCode"]) == ("exited", False, 137)
        engine.stop_container(made)
        assert engine.inspect_container(made)["State"]["FinishedAt"] == ended["FinishedAt"]
        assert eyes.container(made) == "exited"
        never = lab.created()
        engine.stop_container(never)
        assert eyes.container(never) == "created"

    def test_stop_ends_what_does_not_heed_it(self, engine: Engine, lab: Lab) -> None:
        """A program that does not heed its signal is ended when the time-out is over."""
        made = lab.running(StopSignal="SIGCONT")
        engine.stop_container(made, timeout=0.5)
        assert engine.inspect_container(made)["State"]["Status"] == "exited"

    def test_stop_ends_a_paused_container(self, engine: Engine, lab: Lab, eyes: Eyes) -> None:
        """A container that is paused stops as one that runs."""
        made = lab.running()
        engine.pause_container(made)
        engine.stop_container(made)
        assert eyes.container(made) == "exited"

    def test_a_stopped_container_starts_again(self, engine: Engine, lab: Lab) -> None:
        """A container that was stopped runs again, with what was written to it."""
        made = lab.running()
        lab.run(made, "touch", "/tmp/kept")
        engine.stop_container(made)
        engine.start_container(made)
        assert lab.run(made, "cat", "/tmp/kept") == (b"", 0)

    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_one_that_is_to_be_removed_at_its_end_is_gone(self, lab: Lab, eyes: Eyes, end: str) -> None:
        """A container with AutoRemove is gone, and its name free, once it was stopped or killed."""
        name = lab.name()
        made = lab.running(name=name, host={"AutoRemove": True})
        _VERBS[end](lab.engine, made)
        assert eyes.container(made) is None
        lab.created(name=name)

    def test_kill_ends_a_container_at_once(self, engine: Engine, lab: Lab, eyes: Eyes) -> None:
        """A killed container has ended when the call returns, whatever signal it heeds; again is harmless."""
        made = lab.running(StopSignal="SIGCONT")
        engine.kill_container(made)
        state = engine.inspect_container(made)["State"]
        assert (state["Status"], state["ExitCode"]) == ("exited", 137)
        engine.kill_container(made)
        assert eyes.container(made) == "exited"

    def test_kill_ends_a_paused_container(self, engine: Engine, lab: Lab, eyes: Eyes) -> None:
        """A container that is paused is killed as one that runs."""
        made = lab.running()
        engine.pause_container(made)
        engine.kill_container(made)
        assert eyes.container(made) == "exited"

    def test_a_killed_container_is_not_restarted(self, engine: Engine, lab: Lab) -> None:
        """A restart policy does not bring back what was killed, and stays what it was."""
        made = lab.running(host={"RestartPolicy": {"Name": "always"}})
        engine.kill_container(made)
        found = engine.inspect_container(made)
        assert found["State"]["Status"] == "exited"
        assert found["HostConfig"]["RestartPolicy"]["Name"] == "always"

    def test_pause_and_unpause_are_harmless_twice(self, engine: Engine, lab: Lab, eyes: Eyes) -> None:
        """A container pauses and goes on; saying either twice changes nothing."""
        made = lab.running()
        for _ in range(2):
            engine.pause_container(made)
            assert eyes.container(made) == "paused"
        assert engine.inspect_container(made)["State"]["Status"] == "paused"
        for _ in range(2):
            engine.unpause_container(made)
            assert eyes.container(made) == "running"

    @pytest.mark.parametrize("verb", ["pause", "unpause"])
    def test_what_does_not_run_cannot_be_paused(self, lab: Lab, eyes: Eyes, verb: str) -> None:
        """To pause or unpause a container that does not run is a conflict."""
        made = lab.stopped()
        with pytest.raises(EngineConflictError):
            _VERBS[verb](lab.engine, made)
        assert eyes.container(made) == "exited"

    def test_a_paused_container_cannot_be_started(self, engine: Engine, lab: Lab, eyes: Eyes) -> None:
        """To start a paused container is a conflict, and it stays paused."""
        made = lab.running()
        engine.pause_container(made)
        with pytest.raises(EngineConflictError):
            engine.start_container(made)
        assert eyes.container(made) == "paused"

    def test_rename_keeps_the_container(self, engine: Engine, lab: Lab) -> None:
        """A renamed container is the same one under another name, also while it runs."""
        old, new = lab.name(), lab.name()
        made = lab.running(name=old)
        engine.rename_container(old, new)
        assert engine.inspect_container(new)["Id"] == made
        with pytest.raises(ContainerNotFoundError):
            engine.inspect_container(old)
        assert lab.created(name=old) != made

    def test_rename_to_its_own_name_is_harmless(self, engine: Engine, lab: Lab) -> None:
        """A container may be given the name that it has."""
        name = lab.name()
        made = lab.created(name=name)
        engine.rename_container(made, name)
        assert engine.inspect_container(name)["Id"] == made

    def test_rename_to_a_taken_name_is_a_conflict(self, engine: Engine, lab: Lab) -> None:
        """A name that another container has is a conflict, and both keep theirs."""
        one, other = lab.name(), lab.name()
        first, second = lab.created(name=one), lab.created(name=other)
        with pytest.raises(EngineConflictError):
            engine.rename_container(other, one)
        assert engine.inspect_container(one)["Id"] == first
        assert engine.inspect_container(other)["Id"] == second

    def test_update_changes_a_container_in_place(self, engine: Engine, lab: Lab) -> None:
        """A running container gets another restart policy and other resources and runs on."""
        made = lab.running()
        engine.update_container(made, {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}})
        engine.update_container(made, {"CpuShares": 512})
        found = engine.inspect_container(made)
        assert found["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
        assert found["HostConfig"]["CpuShares"] == 512
        assert found["State"]["Status"] == "running"

    def test_remove_is_harmless_where_there_is_none(self, engine: Engine, lab: Lab, eyes: Eyes) -> None:
        """A container is removed; again, or one that never was, is harmless."""
        made = lab.stopped()
        for ref in (made, made, lab.name(), ""):
            engine.remove_container(ref)
        assert eyes.container(made) is None

    def test_remove_of_a_running_container_must_be_forced(self, engine: Engine, lab: Lab, eyes: Eyes) -> None:
        """A container that runs is removed only by force."""
        made = lab.running()
        with pytest.raises(EngineConflictError):
            engine.remove_container(made)
        assert eyes.container(made) == "running"
        engine.remove_container(made, force=True)
        assert eyes.container(made) is None

    @pytest.mark.parametrize(
        "body", [{"Volumes": {"/own": {}}}, {"host": {"Binds": ["/own"]}}], ids=["image's", "bind"]
    )
    def test_an_anonymous_volume_has_a_name(self, engine: Engine, lab: Lab, body: dict[str, Any]) -> None:
        """However it was asked for, an anonymous volume is found by its name, and its container by the volume."""
        made = lab.created(**body)
        (mount,) = [mount for mount in engine.inspect_container(made)["Mounts"] if mount["Destination"] == "/own"]
        assert engine.inspect_volume(mount["Name"])["Name"] == mount["Name"]
        assert engine.list_containers(ContainerFilter(volume=mount["Name"])) == [made]

    @pytest.mark.parametrize("volumes", [True, False])
    def test_remove_takes_anonymous_volumes_only_where_asked(self, lab: Lab, eyes: Eyes, *, volumes: bool) -> None:
        """Anonymous volumes go with their container where that is asked, named ones never."""
        named = lab.volume()
        made = lab.created(Volumes={"/anonymous": {}}, host={"Binds": [f"{named}:/named"]})
        mounts = lab.engine.inspect_container(made)["Mounts"]
        anonymous = next(mount["Name"] for mount in mounts if mount["Destination"] == "/anonymous")
        lab.engine.remove_container(made, volumes=volumes)
        there = (eyes.volume(named), eyes.volume(anonymous))
        lab.engine.remove_volume(anonymous)
        assert there == (True, not volumes)

    def test_list_finds_by_exact_name(self, engine: Engine, lab: Lab) -> None:
        """A name finds that container alone, not those whose names contain it; a prefix finds all that begin so."""
        name = lab.name()
        made, longer = lab.created(name=name), lab.created(name=f"{name}-old")
        before = lab.created(name=f"x{name}")
        assert engine.list_containers(ContainerFilter(name=name)) == [made]
        assert set(engine.list_containers(ContainerFilter(name=(name, f"x{name}")))) == {made, before}
        assert set(engine.list_containers(ContainerFilter(name_prefix=name))) == {made, longer}
        assert engine.list_containers(ContainerFilter(name=name[:-1])) == []
        assert {made, longer, before} <= set(engine.list_containers())

    def test_list_finds_by_labels(self, engine: Engine, lab: Lab) -> None:
        """Labels find the containers that bear all of them, with these very values."""
        made = lab.created(Labels={**lab.labels, "contract.a": "1", "contract.b": "x*"})
        lab.created(Labels={**lab.labels, "contract.a": "1", "contract.b": "xy"})
        found = engine.list_containers(ContainerFilter(labels={**lab.labels, "contract.a": "1", "contract.b": "x*"}))
        assert found == [made]
        assert len(engine.list_containers(ContainerFilter(labels=lab.labels))) == 2

    def test_list_finds_by_volume(self, engine: Engine, lab: Lab) -> None:
        """A volume finds the containers that mount it, running or not, and no other."""
        name = lab.name()
        volume, other = lab.volume(name), lab.volume(f"{name}-2")
        made = lab.created(host={"Binds": [f"{volume}:/data"]})
        mounted = lab.running(host={"Mounts": [{"Type": "volume", "Source": volume, "Target": "/mnt"}]})
        lab.created(host={"Binds": [f"{other}:/data"]})
        assert set(engine.list_containers(ContainerFilter(volume=volume))) == {made, mounted}
        assert engine.list_containers(ContainerFilter(volume="/data")) == []

    def test_list_finds_by_network(self, engine: Engine, lab: Lab) -> None:
        """A network, by name or id, finds the containers attached to it, also those that never ran."""
        name = lab.name()
        network = lab.network(name)
        made = lab.created(host={"NetworkMode": name})
        joined = lab.running()
        engine.connect_network(network, joined, {})
        lab.created()
        for ref in (name, network):
            assert set(engine.list_containers(ContainerFilter(network=ref))) == {made, joined}

    def test_list_finds_what_runs(self, engine: Engine, lab: Lab) -> None:
        """Those that run are those whose processes exist, paused ones too; conditions hold together."""
        running, paused = lab.running(), lab.running()
        engine.pause_container(paused)
        lab.created()
        lab.stopped()
        assert set(engine.list_containers(ContainerFilter(labels=lab.labels, running=True))) == {running, paused}

    def test_changes_tell_what_the_layer_holds(self, engine: Engine, lab: Lab) -> None:
        """What was written since the image was made is told, as added or as changed."""
        made = lab.running()
        assert Change("/lines", "changed") not in engine.container_changes(made)
        lab.run(made, "touch", "/tmp/new")
        lab.run(made, "touch", "/lines")
        engine.stop_container(made)
        changes = engine.container_changes(made)
        assert Change("/tmp/new", "added") in changes
        assert Change("/lines", "changed") in changes
        assert Change("/tmp", "changed") in changes

    def test_logs_are_the_last_lines(self, engine: Engine, lab: Lab) -> None:
        """The log of a container ends with what it printed last."""
        made = lab.running("cat", "/lines")
        engine.stop_container(made)
        assert engine.container_logs(made, tail=100) == LINES
        assert engine.container_logs(made, tail=2) == "".join(LINES.splitlines(keepends=True)[-2:])

    def test_commit_makes_an_image(self, engine: Engine, lab: Lab, eyes: Eyes) -> None:
        """A commit is an image with the tag that was given, on the layers of the container's own image."""
        made, tag = lab.running(), lab.tag()
        lab.run(made, "touch", "/tmp/new")
        image = engine.commit_container(made, tag)
        assert eyes.image(tag)
        assert engine.inspect_image(tag)["Id"] == engine.inspect_image(image)["Id"] == image
        below = lab.layers(lab.image)
        assert lab.layers(tag)[: len(below)] == below
        again = lab.engine.create_container(lab.name(), {**lab.request(), "Image": tag})
        assert engine.inspect_container(again)["Image"] == image
        engine.remove_container(again)

    def test_the_author_of_a_commit_belongs_to_the_image(self, engine: Engine, lab: Lab) -> None:
        """It stays with the image when that is saved and loaded, and no container inherits it."""
        tag, author = lab.tag(), '{"a": "ü"}' + 8000 * "x"
        engine.commit_container(lab.created(), tag, author=author)
        assert engine.inspect_image(tag)["Author"] == author
        archive = b"".join(engine.save_image(tag))
        engine.remove_image(tag)
        engine.load_image([archive])
        assert engine.inspect_image(tag)["Author"] == author
        made = engine.create_container(lab.name(), {**lab.request(), "Image": tag})
        assert author not in str(engine.inspect_container(made))
        engine.remove_container(made)

    @pytest.mark.parametrize("state", ["created", "running"])
    def test_files_are_put_into_a_container(self, engine: Engine, lab: Lab, state: str) -> None:
        """A tar is unpacked at the root, folders included, into a container that runs and into one that never ran."""
        made = lab.created() if state == "created" else lab.running()
        for _ in range(2):
            engine.put_archive(made, tar_of("folder/deep/file", b"content"))
        engine.start_container(made)
        assert lab.run(made, "cat", "/folder/deep/file") == (b"content", 0)

    def test_files_are_read_from_a_container(self, engine: Engine, lab: Lab) -> None:
        """A file, or a folder with all that is in it, from a container that never ran; none that does not exist."""
        made = lab.created()
        engine.put_archive(made, tar_of("folder/deep/file", b"content"))
        for path, names in {
            "/folder": ["folder", "folder/deep", "folder/deep/file"],
            "/folder/deep/file": ["file"],
        }.items():
            archive = io.BytesIO(b"".join(engine.get_archive(made, path)))
            with tarfile.open(fileobj=archive) as tar:
                assert tar.getnames() == names
                content = tar.extractfile(names[-1])
                assert content is not None
                assert content.read() == b"content"
        with pytest.raises(ContainerNotFoundError):
            engine.get_archive(made, "/folder/none")

    def test_the_rest_of_an_archive_need_not_be_read(self, engine: Engine, lab: Lab) -> None:
        """A caller closes the stream after the first block, and the engine answers as before."""
        made = lab.created()
        engine.put_archive(made, tar_of("folder/large", bytes(8 << 20)))
        for _ in range(3):
            with closing(engine.get_archive(made, "/folder")) as archive:
                assert next(archive).startswith(b"folder/\0")
        assert engine.inspect_container(made)["State"]["Status"] == "created"

    def test_commits_of_an_untouched_container_are_equal(self, engine: Engine, lab: Lab) -> None:
        """Stop, commit and start change no layer; one write does."""
        made = lab.running()
        one, two, three = lab.tag(), lab.tag(), lab.tag()
        engine.commit_container(made, one)
        engine.stop_container(made)
        engine.start_container(made)
        engine.commit_container(made, two)
        assert lab.layers(one) == lab.layers(two)
        lab.run(made, "touch", "/tmp/new")
        engine.commit_container(made, three)
        assert lab.layers(three) != lab.layers(two)

    @pytest.mark.parametrize("paused", [True, False])
    def test_commit_leaves_the_state_alone(self, lab: Lab, eyes: Eyes, *, paused: bool) -> None:
        """A commit neither pauses a container that runs nor wakes one that is paused."""
        made = lab.running()
        if paused:
            lab.engine.pause_container(made)
        lab.engine.commit_container(made, lab.tag())
        assert eyes.container(made) == ("paused" if paused else "running")

    def test_a_commit_needs_a_whole_tag(self, engine: Engine, lab: Lab) -> None:
        """A name without a tag, or one that is none, is an error."""
        made = lab.created()
        for tag in ("contract", "localhost:5000/contract", "BAD NAME:1", ":1", "contract:"):
            with pytest.raises(EngineError):
                engine.commit_container(made, tag)

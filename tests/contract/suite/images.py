"""The contract's rules about images."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

import pytest

from docker_rollback._engine import Engine
from docker_rollback.errors import EngineConflictError, EngineError, ImageNotFoundError
from tests.contract.suite.lab import Contract, Eyes, Lab


class ImageContract(Contract):
    """How images are named, moved and removed."""

    def test_import_makes_an_image_of_one_layer(self, engine: Engine, lab: Lab, archive: bytes, eyes: Eyes) -> None:
        """A tar of a file system becomes an image under its tag, however the tar is cut into blocks."""
        tag = lab.tag()
        made = engine.import_image((archive[at : at + 70_000] for at in range(0, len(archive), 70_000)), tag)
        assert eyes.image(tag)
        assert engine.inspect_image(tag)["Id"] == engine.inspect_image(made)["Id"] == made
        assert len(lab.layers(tag)) == 1

    @pytest.mark.parametrize("damage", ["junk", "cut"])
    def test_import_of_a_broken_archive_is_an_error(self, lab: Lab, archive: bytes, eyes: Eyes, damage: str) -> None:
        """What is no whole tar makes no image, though the engine began its answer well."""
        tag = lab.tag()
        broken = b"junk" * 1000 if damage == "junk" else archive[:700]
        with pytest.raises(EngineError):
            lab.engine.import_image([broken], tag)
        assert not eyes.image(tag)

    def test_an_unknown_image_is_not_found(self, engine: Engine, lab: Lab) -> None:
        """Whatever is asked of an image that is not there, the error says so and names it."""
        ref = lab.tag()
        for ask in (
            lambda: engine.inspect_image(ref),
            lambda: engine.tag_image(ref, lab.tag()),
            lambda: engine.save_image(ref),
        ):
            with pytest.raises(ImageNotFoundError) as caught:
                ask()
            assert caught.value.name == ref

    def test_an_image_that_nobody_has_is_not_pulled(self, engine: Engine, eyes: Eyes) -> None:
        """Where no registry has it, or none answers, there is an error and no image."""
        for ref in ("localhost:1/nobody/has-it:1", "localhost:1/nobody/has-it@sha256:" + "ab" * 32):
            with pytest.raises(EngineError):
                engine.pull_image(ref)
        assert not eyes.image("localhost:1/nobody/has-it:1")
        for ref in ("", "..", "/"):
            with pytest.raises(ImageNotFoundError):
                engine.pull_image(ref)

    @pytest.mark.parametrize("ref", ["", "..", "../info", "/", "a//b", "sha256:" + "ab" * 32, "ab" * 32])
    def test_what_cannot_be_an_image_is_not_found(self, engine: Engine, ref: str) -> None:
        """What could lead a request astray is a name that no image has, and removing it is harmless."""
        with pytest.raises(ImageNotFoundError):
            engine.inspect_image(ref)
        engine.remove_image(ref)

    def test_the_beginning_of_an_id_is_no_name(self, engine: Engine, lab: Lab, eyes: Eyes) -> None:
        """A few digits that an image's id begins with name no image, and remove none."""
        digits = engine.inspect_image(lab.image)["Id"].removeprefix("sha256:")[:6]
        with pytest.raises(ImageNotFoundError):
            engine.inspect_image(digits)
        engine.remove_image(digits)
        assert eyes.image(lab.image)

    def test_a_tag_is_one_more_name(self, engine: Engine, lab: Lab, eyes: Eyes) -> None:
        """An image bears a new name beside its others; again is harmless."""
        tag = lab.tag()
        for _ in range(2):
            engine.tag_image(lab.image, tag)
        assert eyes.image(tag)
        assert eyes.image(lab.image)
        assert engine.inspect_image(tag)["Id"] == engine.inspect_image(lab.image)["Id"]

    def test_the_names_of_one_repository_are_listed(self, engine: Engine, lab: Lab) -> None:
        """Each name of it, however many one image has; none of a repository whose name begins so or ends so."""
        names = [lab.tag(), lab.tag()]
        repository = names[0].rpartition(":")[0]
        for name in (*names, f"{repository}-more:1", f"other/{repository}:1"):
            engine.tag_image(lab.image, name)
        try:
            assert engine.list_images(repository) == sorted(names)
            assert engine.list_images(repository[:-1]) == []
        finally:
            engine.remove_image(f"{repository}-more:1")
            engine.remove_image(f"other/{repository}:1")

    def test_a_tag_is_taken_from_whoever_has_it(self, engine: Engine, lab: Lab) -> None:
        """A name that another image bears moves."""
        tag = lab.tag()
        other = engine.commit_container(lab.created(), tag)
        mine = engine.inspect_image(lab.image)["Id"]
        engine.tag_image(lab.image, tag)
        assert engine.inspect_image(tag)["Id"] == mine != other

    def test_remove_takes_a_name_and_in_the_end_the_image(self, engine: Engine, lab: Lab, eyes: Eyes) -> None:
        """An image stays as long as it has a name; removing what is not there is harmless."""
        one, two = lab.tag(), lab.tag()
        made = engine.commit_container(lab.created(), one)
        engine.tag_image(one, two)
        engine.remove_image(one)
        assert (eyes.image(one), eyes.image(two)) == (False, True)
        assert engine.inspect_image(made)["Id"] == made
        for ref in (two, two, one, made):
            engine.remove_image(ref)
        with pytest.raises(ImageNotFoundError):
            engine.inspect_image(made)

    def test_remove_never_forces(self, engine: Engine, lab: Lab, eyes: Eyes) -> None:
        """An image that a container was made from, and one with several names, are not removed by id."""
        one, two = lab.tag(), lab.tag()
        made = engine.commit_container(lab.created(), one)
        engine.tag_image(one, two)
        with pytest.raises(EngineConflictError):
            engine.remove_image(made)
        engine.remove_image(two)
        user = engine.create_container(lab.name(), {**lab.request(), "Image": one})
        with pytest.raises(EngineConflictError):
            engine.remove_image(one)
        engine.remove_container(user)
        assert eyes.image(one)

    def test_an_image_comes_back_from_its_archive(self, engine: Engine, lab: Lab, eyes: Eyes) -> None:
        """What was saved, removed and loaded has its name, its layers and its configuration again."""
        tag, made = lab.tag(), lab.running(Env=["A=1"])
        lab.run(made, "touch", "/tmp/new")
        engine.commit_container(made, tag)
        engine.remove_container(made, force=True)
        before = engine.inspect_image(tag)
        archive = list(engine.save_image(tag))
        engine.remove_image(tag)
        assert not eyes.image(tag)
        engine.load_image(archive)
        after = engine.inspect_image(tag)
        assert after["RootFS"] == before["RootFS"]
        for part in ("Cmd", "Env", "Labels"):
            assert after["Config"].get(part) == before["Config"].get(part)
        again = engine.create_container(lab.name(), {"Image": tag, "Labels": lab.labels})
        engine.start_container(again)
        assert lab.run(again, "cat", "/tmp/new") == (b"", 0)
        engine.remove_container(again, force=True)

    @pytest.mark.parametrize("damage", ["junk", "cut", "nothing"])
    def test_loading_what_is_no_archive_is_an_error(self, lab: Lab, damage: str) -> None:
        """An archive that is damaged is an error, though the engine began its answer well."""
        whole = b"".join(lab.engine.save_image(lab.image))
        broken = {"junk": b"junk" * 1000, "cut": whole[: len(whole) // 3], "nothing": b""}[damage]
        with pytest.raises(EngineError):
            lab.engine.load_image([broken])

    @pytest.mark.parametrize("error", [OSError(28, "no space"), ValueError("damaged"), KeyboardInterrupt()])
    def test_an_error_of_the_archive_comes_out_untouched(self, lab: Lab, error: BaseException) -> None:
        """What goes wrong while the blocks are made is not told as a fault of the engine."""

        def blocks() -> Iterator[bytes]:
            yield b"x" * 100_000
            raise error

        for feed in (lab.engine.load_image, lambda archive: lab.engine.import_image(archive, lab.tag())):
            with pytest.raises(type(error)) as caught:
                feed(blocks())
            assert caught.value is error

    def test_a_stream_that_is_left_does_no_harm(self, engine: Engine, lab: Lab) -> None:
        """An archive of which nobody wants the rest can be left, and asked for again."""
        stream = engine.save_image(lab.image)
        assert next(stream)
        del stream
        # An engine dates what it packs, so that two archives of an image are not the same to the byte.
        whole = io.BytesIO(b"".join(engine.save_image(lab.image)))
        with tarfile.open(fileobj=whole) as archive:
            assert "manifest.json" in archive.getnames()

"""The images of docker-compose.yml: what they may hold, and how they bring a database along."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sqlalchemy import text

from docker_engine import BASE_IMAGE, COMMAND_SECONDS_MAX, DOCKERFILE, REPOSITORY, SERVICES, USER
from mailboat_controller.store.engine import MIGRATIONS, Store

DOCKER = REPOSITORY / "controller" / "docker"
OURS = sorted(name for name in SERVICES if "build" in SERVICES[name])
LOCKS = {
    "agent": ("agent", "inspect"),
    "controller": ("controller", "postgres", "s3", "hsm"),
    "authority": ("model", "s3", "hsm"),
}

SECRET_NAME = re.compile(r"(?i)pass|secret|token|credential|(^|_)key(_|$)")
PINNED_DEBIAN = re.compile(r"debian:[a-z]+-\d{8}-slim(@sha256:[0-9a-f]{64})?")
REVISION = text("SELECT version_num FROM alembic_version")
ASKS = re.compile(r"(credential |approver$|broker-files$)")  # of start-controller, at its top


def stages() -> dict[str, list[str]]:
    """The instructions of each stage of the Dockerfile, by its name."""
    joined = DOCKERFILE.read_text().replace("\\\n", " ")
    lines = [" ".join(line.split()) for line in joined.splitlines() if line[:1].strip("# ")]
    found: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("FROM"):
            name = line.split(" AS ")[1]
            found[name] = []
        found[name].append(line)
    return found


def below(stage: str) -> list[str]:
    """The stages that end up in an image, itself among them."""
    base = stages()[stage][0].split()[1]
    return [stage, *below(base)] if base in stages() else [stage]


@pytest.mark.parametrize("image", LOCKS)
def test_an_image_holds_pinned_packages_no_secret_and_no_root(image: str) -> None:
    lines = [line for stage in below(image) for line in stages()[stage]]
    settings = [line for line in lines if line.startswith(("ARG", "ENV"))]

    assert PINNED_DEBIAN.fullmatch(BASE_IMAGE)
    assert [line for line in settings if SECRET_NAME.search(line)] == []
    assert stages()[image][-2] == "USER mailboat"
    assert f"--uid {USER} " in "\n".join(lines)


@pytest.mark.parametrize("image", LOCKS)
def test_what_makes_an_image_stays_out_of_it(image: str) -> None:
    """Of the stages with compilers, pip and sources, only two finished directories come along:
    what others wrote, then, in a layer of its own, what changes with every commit."""
    copied = [line for line in stages()[image] if line.startswith("COPY --from")]

    assert below(image) == [image, "part", "python"]
    assert copied == [
        f"COPY --from={image}-packages /opt/mailboat /opt/mailboat",
        f"COPY --from=code /code-{image} /opt/mailboat",
    ]


def test_whatever_is_installed_is_what_a_lock_says() -> None:
    lines = "\n".join(line for stage in stages().values() for line in stage)
    installs = re.findall(r"pip (?:--python \S+ )?install [^&\n]*", lines)

    assert len(installs) == len(LOCKS) + 2
    assert [
        each for each in installs if "--require-hashes" not in each and "--no-deps" not in each
    ] == []


def test_each_image_is_built_from_its_target() -> None:
    for name in OURS:
        image = SERVICES[name]["image"]
        assert SERVICES[name]["build"] == {
            "context": ".",
            "target": image.removeprefix("mailboat-"),
        }


@pytest.mark.parametrize("lock", LOCKS)
def test_an_image_installs_what_was_tested_and_all_that_is_needed(lock: str) -> None:
    """`make lock` writes all of them again."""
    tested, shipped = pinned("dev"), pinned(lock)
    needed: set[str] = set()
    for extra in LOCKS[lock]:
        needed |= set(_needed_by(Requirement(f"mailboat[{extra}]"), set()))

    assert shipped <= tested
    assert needed - {name for name, _version in shipped} == {"mailboat"}


def pinned(lock: str) -> set[tuple[str, str]]:
    text = (REPOSITORY / "requirements" / f"{lock}.lock").read_text()
    return set(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE))


def _needed_by(wanted: Requirement, seen: set[tuple[str, str]]) -> Iterator[str]:
    name = canonicalize_name(wanted.name)
    yield name
    for extra in ("", *sorted(wanted.extras)):
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for line in distribution(name).requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                yield from _needed_by(requirement, seen)


def test_the_build_sees_what_it_copies_and_little_else() -> None:
    rules = [
        line
        for line in (REPOSITORY / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        source
        for stage in stages().values()
        for line in stage
        if line.startswith("COPY") and "--from" not in line
        for source in line.split()[1:-1]
    }

    assert rules[0] == "*"
    assert let_in <= {str(path.relative_to(REPOSITORY)) for path in _below(REPOSITORY, 2)}
    assert {source for source in copied if not _is_within(source, let_in)} == set()
    assert {source for source in copied if not (REPOSITORY / source).exists()} == set()


@pytest.mark.slow
def test_a_newer_image_brings_the_database_along_before_anything_asks_it(tmp_path: Path) -> None:
    settings = tmp_path / "controller.toml"
    settings.write_text(f'fleet = "demo"\ndata_dir = "{tmp_path}"\n')
    store = Store(f"sqlite:///{tmp_path / 'mailboat.db'}")
    alembic = Config()
    alembic.set_main_option("script_location", str(MIGRATIONS))
    store.migrate()
    with store.transaction() as tx:
        newest = tx.execute(REVISION).scalar()
        alembic.attributes["connection"] = tx
        command.downgrade(alembic, "0001")

    subprocess.run(
        [sys.executable, DOCKER / "migrate-database"],
        check=True,
        env={**os.environ, "MAILBOAT_CONFIG": str(settings)},
        timeout=COMMAND_SECONDS_MAX,
    )

    with store.read() as tx:
        assert tx.execute(REVISION).scalar() == newest
    store.close()
    lines = (DOCKER / "start-controller").read_text().splitlines()
    (migrates,) = [n for n, line in enumerate(lines) if line.startswith("migrate-database")]
    asks = [
        n
        for n, line in enumerate(lines)
        if re.match(r"(credential|approver|broker-files)\b(?!\()", line)
    ]
    assert len(asks) == 5
    assert migrates < min(asks)


def _below(directory: Path, levels: int) -> Iterator[Path]:
    for path in directory.iterdir():
        yield path
        if levels > 1 and path.is_dir() and not path.name.startswith("."):
            yield from _below(path, levels - 1)


def _is_within(source: str, let_in: set[str]) -> bool:
    return any(source == place or source.startswith(f"{place}/") for place in let_in)

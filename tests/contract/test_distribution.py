"""What is built and installed: the files that stand beside the code, and what each part needs."""

import importlib.metadata
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[2]
BUILD_SECONDS_MAX = 60
COMMAND_SECONDS_MAX = 30


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel and the sdist of this tree."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(out)]
    subprocess.run(
        command, cwd=REPOSITORY, check=True, capture_output=True, timeout=BUILD_SECONDS_MAX
    )
    return out


def wheel_of(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


def metadata_of(built: Path) -> Message:
    with wheel_of(built) as wheel:
        (name,) = (each for each in wheel.namelist() if each.endswith(".dist-info/METADATA"))
        return Parser().parsestr(wheel.read(name).decode())


def needed_by(metadata: Message, extra: str) -> set[str]:
    lines = [Requirement(line) for line in metadata.get_all("Requires-Dist", ())]
    return {
        each.name for each in lines if each.marker is None or each.marker.evaluate({"extra": extra})
    }


def closure(first: set[str]) -> set[str]:
    """Names of all distributions here that these need, with the extras that they ask for."""
    todo, seen = [Requirement(each) for each in first], set()
    while todo:
        wanted = todo.pop()
        for extra in ("", *wanted.extras):
            if (key := (wanted.name, extra)) in seen:
                continue
            seen.add(key)
            for line in importlib.metadata.distribution(wanted.name).requires or ():
                needs = Requirement(line)
                if needs.marker is None or needs.marker.evaluate({"extra": extra}):
                    todo.append(needs)
    return {name for name, _ in seen}


def lay_out(names: set[str], place: Path) -> None:
    """Link what these distributions consist of into an empty directory, and nothing else."""
    place.mkdir()
    for name in names:
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()}:
            source = Path(str(distribution.locate_file(top)))
            if top not in ("..", "__pycache__") and not (place / top).exists():
                (place / top).symlink_to(source)


# What is read for a further extra, or by an interpreter that is not the one it runs in here.
OF_ANOTHER_EXTRA = {
    "agent": ("onnx", "sqlite_utils", "PyKCS11"),
    "controller": ("onnx", "onnxruntime", "obstore", "psycopg", "PyKCS11", "mailboat_agent"),
}
IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
allowed = set(sys.argv[2].split())
count = 0
for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if "migrations" in found.name or found.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(found.name)
        count += 1
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in allowed:
            raise SystemExit(f"{found.name}: {error}")
print(count)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("extra", "package", "command"),
    [
        ("agent", "mailboat_agent", "mailboat-agent"),
        ("controller", "mailboat_controller", "mailboat"),
    ],
)
def test_an_extra_alone_is_enough_for_its_part(
    built: Path, tmp_path: Path, extra: str, package: str, command: str
) -> None:
    """Every module of it, with the packages that the wheel names and none besides."""
    requirements = {
        str(each)
        for line in metadata_of(built).get_all("Requires-Dist", ())
        if (each := Requirement(line)).marker is None or each.marker.evaluate({"extra": extra})
    }
    lay_out(closure({each.partition(";")[0] for each in requirements}), tmp_path / "packages")
    with wheel_of(built) as wheel:
        wheel.extractall(tmp_path / "ours")  # noqa: S202 - built here

    def said(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-S", *words],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{tmp_path}/ours:{tmp_path}/packages"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert int(said("-c", IMPORT_ALL, package, " ".join(OF_ANOTHER_EXTRA[extra]))) > 100
    run = {"agent": "mailboat_agent.cli", "controller": "mailboat_controller.__main__"}[extra]
    start = f"import sys; sys.argv = ['{command}', '--help']; from {run} import main; main()"
    assert command in said("-c", start)


@pytest.mark.slow
def test_a_wheel_made_of_the_source_archive_is_the_same(built: Path, tmp_path: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = (each for each in tmp_path.iterdir() if each.is_dir())
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "--directory", "made"]
    subprocess.run(command, cwd=tree, check=True, capture_output=True, timeout=BUILD_SECONDS_MAX)

    (made,) = (tree / "made").glob("*.whl")
    with wheel_of(built) as ours, zipfile.ZipFile(made) as theirs:
        assert sorted(theirs.namelist()) == sorted(ours.namelist())


@pytest.mark.slow
def test_the_wheel_holds_what_an_installation_reads_beside_the_code(built: Path) -> None:
    with wheel_of(built) as wheel:
        names = set(wheel.namelist())
    shipped = {
        *(REPOSITORY / "agent" / "mailboat_agent" / "systemd").iterdir(),
        *(REPOSITORY / "broker-config" / "mosquitto").iterdir(),
    }

    assert {
        "mailboat_agent/systemd/mailboat-agent.service",
        "mailboat_controller/broker_config/mosquitto/acl",
        "mailboat_schemas/documents/errors.md",
        "mailboat_controller/store/migrations/script.py.mako",
        "mailboat_schemas/py.typed",
    } <= names
    assert {path.name for path in shipped} <= {Path(name).name for name in names}
    assert {"mailboat.1", "mailboat-agent.1"} <= {
        Path(name).name for name in names if "/data/share/man/man1/" in name
    }
    assert [name for name in names if name.startswith(("tests/", "docs/"))] == []


@pytest.mark.slow
def test_a_device_needs_nothing_of_the_controller(built: Path) -> None:
    metadata = metadata_of(built)
    on_device, on_server = needed_by(metadata, "agent"), needed_by(metadata, "controller")

    assert on_device & {"fastapi", "sqlalchemy", "alembic", "rich", "typer", "structlog"} == set()
    # numpy is on both sides: the server builds the deltas that the device applies.
    assert on_server & {"onnxruntime", "psutil"} == set()
    assert "onnxruntime" in on_device
    assert "fastapi" in on_server


@pytest.mark.slow
def test_the_source_archive_can_set_itself_up(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert {"Makefile", ".ci/setup", "requirements/dev.lock", "docker-compose.yml"} <= names
    assert [name for name in names if name.endswith((".pyc", ".pem", ".key", ".db"))] == []


@pytest.mark.parametrize(
    ("package", "start", "extra"),
    [
        ("typer", "from mailboat_controller.__main__ import main; main()", "controller"),
        ("ddsketch", "from mailboat_agent.cli import main; sys.exit(main())", "agent"),
    ],
)
def test_a_command_whose_part_is_not_installed_says_what_to_install(
    package: str, start: str, extra: str, tmp_path: Path
) -> None:
    absent = f"import sys; sys.modules[{package!r}] = None; sys.argv = ['mailboat', 'run']"
    done = subprocess.run(
        [sys.executable, "-c", f"{absent}; {start}"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=COMMAND_SECONDS_MAX,
    )

    assert done.returncode == 1
    assert f"{package} is missing" in done.stderr
    assert f"mailboat[{extra}]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_wheel_holds_the_pages_and_scripts_of_the_console(built: Path) -> None:
    with wheel_of(built) as wheel:
        names = set(wheel.namelist())
    console = REPOSITORY / "controller" / "mailboat_controller" / "console"
    shipped = [
        path
        for part in ("templates", "static")
        for path in (console / part).rglob("*")
        if path.is_file()
    ]

    assert len(shipped) > 10
    assert {str(path.relative_to(REPOSITORY / "controller")) for path in shipped} <= names


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_installed_from_the_wheel_runs_without_the_checkout(
    built: Path, tmp_path: Path
) -> None:
    """Other packages are those of this environment, which the lock names: nothing is fetched."""
    place = tmp_path / "venv"
    venv.create(place, with_pip=False, symlinks=True)
    (wheel,) = built.glob("*.whl")
    python = place / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install"]
    offline = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([*install, *offline, str(wheel)], check=True, timeout=300, cwd=tmp_path)
    (site,) = place.glob("lib/python*/site-packages")
    # A directory in a .pth adds no .pth of its own: the editable checkout stays out.
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")

    def said(*command: str | Path) -> str:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TERM": "dumb"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "import mailboat_agent as a, mailboat_controller as c; print(a.__file__, c.__file__)"
    assert all(each.startswith(str(place)) for each in said(python, "-c", where).split())
    assert "rollout" in said(place / "bin" / "mailboat", "--help")
    assert "enroll" in said(place / "bin" / "mailboat-agent", "--help")
    assert "mailboat" in said(place / "bin" / "mailboat", "completion", "bash")
    assert "next" in said(place / "bin" / "mailboat", "help", "E-BROKER").lower()

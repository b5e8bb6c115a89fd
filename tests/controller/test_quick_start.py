"""What a start leaves out: what only some controllers need, and looking for garbage meanwhile."""

import subprocess
import sys
from pathlib import Path

import pytest

from mailboat_controller import garbage
from mailboat_controller.store import engine
from mailboat_controller.store.engine import Store
from running_controller import RunningController

SECONDS_MAX = 300  # on a busy machine; so long nobody waits but for one that hangs

_SERVE_AND_LOOK = """
import gc, os, pathlib, signal, sys, threading, time
from mailboat_controller.__main__ import main

def look():
    while not pathlib.Path(sys.argv[-1]).parent.joinpath(serving).exists():
        time.sleep(0.02)
    names = ("mailboat_controller.service", "structlog", "alembic", "rich", "boto3", "numpy")
    found = [name for name in names if sys.modules.get(name)]
    settled = gc.get_freeze_count() > 0
    import rich.console
    print(found, gc.get_threshold()[0], settled, rich.console.__name__, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

serving = sys.argv.pop()
threading.Thread(target=look, daemon=True).start()
sys.argv = ["mailboat", "serve", "--config", sys.argv[-1]]
main()
"""


@pytest.mark.slow
def test_a_controller_that_serves_has_loaded_nothing_that_only_others_need(tmp_path: Path) -> None:
    """And whoever needs one of them later gets it."""
    controller = RunningController(tmp_path)
    controller.store.close()
    config = controller.settings.data_dir / "controller.toml"
    command = [sys.executable, "-c", _SERVE_AND_LOOK, str(config)]
    told = subprocess.run(
        [*command, str(controller.settings.serving_file)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=SECONDS_MAX,
    )

    loaded = ["mailboat_controller.service", "structlog"]
    assert told.stdout == f"{loaded} {garbage.YOUNG_OBJECTS_MAX} True rich.console\n"


def test_a_database_of_this_version_is_opened_without_a_look_at_migrations(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "env.py").write_text("raise SystemExit('looked')\n")
    monkeypatch.setattr(engine, "MIGRATIONS", tmp_path)
    store = Store(database_url)

    store.migrate()

    assert store.is_migrated()
    store.close()

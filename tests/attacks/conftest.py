"""Attacks are coroutines: what is attacked runs in the same loop, and is up before they begin.

Each on a device costs the start of a worker. The quick suite has one or two of every kind; those
that meet the same defence another way, or one that is tested by itself elsewhere, are slow.
"""

import asyncio
import inspect
from pathlib import Path
from typing import Any

import pytest

from attack_siege import Siege, Stronghold
from model_fleet import ModelFleet


@pytest.fixture(scope="session")
def stronghold(tmp_path_factory: pytest.TempPathFactory) -> Stronghold:
    return Stronghold(tmp_path_factory.mktemp("stronghold"))


@pytest.fixture
def siege(stronghold: Stronghold, tmp_path: Path) -> Siege:
    """A device that serves 1.0.0; started around the test, and ended whatever happens."""
    return stronghold.besiege(tmp_path / "siege")


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> ModelFleet:
    """Somebody with the same tools, the same names, and keys of their own."""
    fleet = ModelFleet(tmp_path_factory.mktemp("stranger"))
    fleet.model_release("6.6.6", factor=6.0)
    return fleet


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(_play(pyfuncitem.obj, {name: pyfuncitem.funcargs[name] for name in names}))
    return True


async def _play(attack: Any, arguments: dict[str, Any]) -> None:
    siege = next((each for each in arguments.values() if isinstance(each, Siege)), None)
    if siege is None:
        await attack(**arguments)
        return
    async with siege:
        await attack(**arguments)

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import literal_column, select
from sqlalchemy.engine.interfaces import CacheStats

from enrolled_fleet import migrated_store
from mailboat_controller.store import compiled_once, tables
from mailboat_controller.store.engine import Store


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    with (
        closing(migrated_store(tmp_path / "one")) as one,
        closing(migrated_store(tmp_path / "two")) as two,
    ):
        yield one, two


def looked(store: Store, number: int) -> CacheStats:
    """One statement, which reads differently for each number; whether it was compiled for that."""
    with store.read() as tx:
        result = tx.execute(select(tables.devices.c.device, literal_column(str(number))))
        assert result.all() == []
        assert result.context is not None
        return result.context.cache_hit


def test_what_one_database_has_compiled_another_one_does_not_compile_again(
    stores: tuple[Store, Store],
) -> None:
    one, two = stores

    assert looked(one, 4711) is CacheStats.CACHE_MISS
    assert looked(two, 4711) is CacheStats.CACHE_HIT
    assert looked(two, 4712) is CacheStats.CACHE_MISS


def test_of_more_statements_than_are_kept_the_oldest_are_compiled_again(
    stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_max = 20
    monkeypatch.setattr(compiled_once._compiled, "capacity", kept_max)
    store, _ = stores
    looked(store, 0)

    for number in range(1, 2 * kept_max):
        looked(store, number)

    assert len(compiled_once._compiled) <= 2 * kept_max  # half as many again, then it tidies up
    assert looked(store, 2 * kept_max - 1) is CacheStats.CACHE_HIT
    assert looked(store, 0) is CacheStats.CACHE_MISS


def test_a_process_keeps_no_more_than_a_thousand() -> None:
    assert compiled_once._compiled.capacity == compiled_once.STATEMENTS_MAX == 1000

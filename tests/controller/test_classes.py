from datetime import UTC, datetime
from pathlib import Path

import pytest

from enrolled_fleet import migrated_store
from mailboat_controller.store import classes
from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.errors import NotFound
from running_api import HARDWARE_CLASS

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def test_applying_the_same_class_again_changes_nothing(tmp_path: Path) -> None:
    store = migrated_store(tmp_path)
    document = HardwareClass.model_validate(HARDWARE_CLASS)
    roomier = HardwareClass.model_validate(
        {**HARDWARE_CLASS, "spec": {**HARDWARE_CLASS["spec"], "disk_budget": "2GiB"}}
    )
    with store.transaction() as tx:
        assert classes.put(tx, document, NOON) is True
        assert classes.put(tx, document, NOON) is False
        assert classes.put(tx, roomier, NOON) is True

        assert classes.get(tx, "kiosk-x86") == roomier
        assert classes.every(tx) == (roomier,)
        assert classes.names(tx) == ("kiosk-x86",)
        with pytest.raises(NotFound):
            classes.get(tx, "toaster")
    store.close()

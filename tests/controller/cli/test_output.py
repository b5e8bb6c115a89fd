"""Nothing that comes from afar moves the terminal or breaks a line, in any form."""

import pytest
import yaml

from mailboat_controller.cli import forms, output
from mailboat_controller.cli.progress import MANY_DEVICES, in_turn
from mailboat_schemas.errors import NotFound

HOSTILE = "kiosk\x1b[2J\r\n\u202e-1\x07"


@pytest.mark.parametrize("form", [each.value for each in forms.Form])
def test_a_hostile_name_stays_in_its_line(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"device": HOSTILE, "labels": {"a": HOSTILE}}]
    with forms.spoken(form):
        output.show_rows(rows, {"device": "DEVICE"}, as_json=form in forms.FOR_PROGRAMS)

    said = capsys.readouterr().out
    assert all(char.isprintable() or char in "\n\t" for char in said)
    if form == "yaml":
        assert yaml.safe_load(said) == rows
    if form in ("name", "table", "wide"):
        assert len(said.splitlines()) == (1 if form == "name" else 2)


def test_a_hostile_name_in_an_error_stays_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_error(NotFound(f"No {HOSTILE}.", next_step=f"list {HOSTILE}"), as_json=False)

    said = capsys.readouterr().err
    assert all(char.isprintable() or char == "\n" for char in said)


def test_a_row_of_several_keys_is_named_by_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    with forms.spoken("name"):
        output.show_rows(
            [{"model": "vad", "version": "1.0.0"}],
            {"model": "MODEL"},
            as_json=True,
            name=("model", "version"),
        )

    assert capsys.readouterr().out == "vad@1.0.0\n"


def test_a_value_of_too_many_parts_is_not_in_a_wide_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    many = list(range(output.WIDE_PARTS_MAX + 1))
    with forms.spoken("wide"):
        output.show_rows(
            [{"name": "a", "few": many[:-1], "many": many, "deep": [{"a": 1}]}],
            {"name": "NAME"},
            as_json=False,
        )

    assert capsys.readouterr().out.splitlines()[0] == "NAME\tFEW"


def test_orders_to_many_devices_go_in_turn(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"dev-{number}" for number in range(MANY_DEVICES)]

    assert list(in_turn(names, "hold", shown=True)) == names
    assert capsys.readouterr() == ("", "")

"""The documents under `examples/gitops` are ones that a controller takes, and editors too."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from command_line import mailboat
from mailboat_controller.cli import output
from mailboat_controller.gitops.kinds import KINDS
from mailboat_controller.gitops.reading import read_tree

EXAMPLES = Path(__file__).parents[3] / "examples" / "gitops"
FLEET = EXAMPLES / "fleet"


class Plain(yaml.SafeLoader):
    """Instants stay the text they are in JSON."""


Plain.yaml_implicit_resolvers = {
    letter: [(tag, rule) for tag, rule in rules if not tag.endswith(":timestamp")]
    for letter, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def test_there_is_one_of_every_kind() -> None:
    assert {each.key[0] for each in read_tree(FLEET)} == set(KINDS)


@pytest.mark.parametrize("file", sorted(FLEET.rglob("*.yaml")), ids=lambda file: file.name)
def test_the_schema_that_its_first_line_names_accepts_it(file: Path) -> None:
    text = file.read_text()
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named is not None
    schema = json.loads((file.parent / named[1]).read_text())

    for document in yaml.load_all(text, Loader=Plain):
        jsonschema.validate(document, schema)


@pytest.mark.usefixtures("as_alice")
def test_a_controller_compares_them() -> None:
    said = mailboat("diff", "-f", FLEET, "--set", "examples", "--json")

    assert said.code == output.EXIT_CONFLICT
    refused = {each["name"] for each in said.json["results"] if each["result"] == "refused"}
    assert refused == {"old-gates", "heat-1-0-0", "exhibition"}  # no release yet; years away

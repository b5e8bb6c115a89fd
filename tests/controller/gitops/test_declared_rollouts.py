"""A declared Rollout waits for its approver; a checkout never signs for anybody."""

from pathlib import Path

import pytest

from command_line import Said, mailboat
from mailboat_controller.cli import output
from mailboat_controller.releases.build import plan_of
from mailboat_controller.rollout.state import Trigger
from mailboat_controller.store import rollouts
from mailboat_schemas.codec import encode
from mailboat_schemas.documents.rollout import Rollout
from mailboat_schemas.documents.yaml_source import parse_document
from mailboat_schemas.submission import Submission
from running_api import RunningApi
from trust_fleet import FLEET

pytestmark = pytest.mark.usefixtures("as_alice")


def text(
    name: str, *, version: str = "1.0.0", waves: str = "[{percent: 100}]", more: str = ""
) -> str:
    return (
        f"apiVersion: mailboat/v1\nkind: Rollout\nmetadata: {{name: {name}}}\nspec:\n"
        f"  release: {{model: vad, version: {version}}}\n  waves: {waves}\n{more}"
    )


def submit(api: RunningApi, version: str, plan: str | None) -> None:
    """CI's release, and an approver's signature under a plan if there is one."""
    path = api.artifacts.path("ab" * 32)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"onnx")
    if plan is None:
        digest = api.trust.release(version, approve=False)
        send(api, {digest: api.trust.documents[digest]}, "release-vad")
    else:
        document = parse_document(plan.encode(), Rollout, source="test")
        digest = api.trust.release(version, plan_of(document, 10))
        documents = {digest: api.trust.documents[digest]}
        send(api, documents, "release-vad", "approval-vad")


def send(api: RunningApi, documents: dict[str, bytes], *names: str) -> None:
    roles = {name: api.trust.roles[name] for name in names}
    content = encode(Submission(fleet=FLEET, roles=roles, documents=documents))
    headers = {"Content-Type": "application/vnd.msgpack"}
    answer = api.ask("POST", "/v1/submissions", by="build", body=content, headers=headers)
    assert answer.status == 200, answer.content


def diff(directory: Path, **files: str) -> Said:
    for file in directory.glob("*.yaml"):
        file.unlink()
    for name, content in files.items():
        (directory / f"{name}.yaml").write_text(content)
    return mailboat("diff", "-f", directory, "--set", "rollouts", "--json")


def result(said: Said, name: str) -> dict[str, str]:
    return next(each for each in said.json["results"] if each["name"] == name)


def test_a_rollout_waits_for_its_approver_and_is_then_the_same(
    api: RunningApi, tmp_path: Path
) -> None:
    submit(api, "1.0.0", None)
    first = text("first", waves="[{devices: 1}, {percent: 50}, {percent: 100}]")
    said = diff(tmp_path, one=first)

    assert said.code == output.EXIT_DIFFERENT
    waiting = result(said, "first")
    assert waiting["result"] == "needs approval"
    assert waiting["next_step"] == (
        f"mailboat release approve vad 1.0.0 --rollout {tmp_path}/one.yaml --key KEY"
    )
    assert mailboat("apply", "-f", tmp_path, "--set", "rollouts").code == 0
    with api.store.read() as tx:
        assert rollouts.find(tx, "first") is None, "nobody signed it"

    submit(api, "1.0.1", None)
    second = text("second", version="1.0.1", waves="[{devices: 1}, {percent: 50}]")
    submit(api, "1.0.2", second.replace("1.0.1", "1.0.2"))
    said = diff(tmp_path, two=second.replace("1.0.1", "1.0.2"))
    assert said.code == 0
    assert result(said, "second")["result"] == "unchanged"

    said = diff(tmp_path, two=second.replace("1.0.1", "1.0.2").replace("50", "60"))
    (one,) = said.json["results"][0]["differences"]
    assert (one["field"], one["before"], one["after"]) == ("waves[1].percent", 50.0, 60.0)
    assert result(said, "second")["result"] == "needs approval"

    said = diff(tmp_path, two=second)  # the same name for another release
    assert said.code == output.EXIT_CONFLICT
    assert "keeps its plan" in result(said, "second")["because"]

    api.reconciler.order("second", Trigger.ABORT, actor="x:y", reason="over", now=api.now())
    said = diff(tmp_path, two=second.replace("1.0.1", "1.0.2").replace("50", "60"))
    assert "Rollout second of vad@1.0.2 is aborted" in result(said, "second")["because"]
    # What is over stays where it is, beside the next one.
    said = diff(tmp_path, two=second.replace("1.0.1", "1.0.2"), one=first)
    assert {each["result"] for each in said.json["results"]} == {"unchanged", "needs approval"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (text("x", version="7.7.7"), "There is no release vad 7.7.7."),
        (text("x", version="2.0.0"), "Release vad 2.0.0 is withdrawn."),
        (text("x", version="2.0.1", more="  hardware_classes: [gate]\n"), "no variant for class"),
        (text("x", version="2.0.1", more="  expires: 2020-01-01T00:00:00Z\n"), "has expired"),
    ],
)  # fmt: skip
def test_what_no_approver_could_let_run_is_refused(
    api: RunningApi, tmp_path: Path, content: str, words: str
) -> None:
    with api.store.read() as tx:
        known = rollouts.find(tx, "withdrawn")
    if known is None:
        submit(api, "2.0.0", text("withdrawn", version="2.0.0"))
        api.trust.withdraw("2.0.0")
        send(api, {}, "approval-vad")
        submit(api, "2.0.1", None)

    said = diff(tmp_path, x=content)
    assert said.code == output.EXIT_CONFLICT
    assert words in result(said, "x")["because"]


def test_two_rollouts_of_one_model_are_not_declared_at_once(
    api: RunningApi, tmp_path: Path
) -> None:
    submit(api, "3.0.0", None)
    said = diff(tmp_path, a=text("a", version="3.0.0"), b=text("b", version="3.0.0"))

    assert said.code == output.EXIT_CONFLICT
    assert "Rollouts a and b of vad are both declared." in result(said, "a")["because"]

"""``mailboat release list|show``: what the controller has, who signed it, who approved it."""

from typing import Any

from mailboat_controller.cli import options, output

_COLUMNS = {
    "model": "MODEL",
    "version": "VERSION",
    "standing": "STANDING",
    "since": "SINCE",
    "signed": "SIGNED BY",
    "approved": "APPROVED BY",
    "plan": "PLAN",
    "hardware_classes": "CLASSES",
    "digest": "DIGEST",
}
NAME = ("model", "version")
_DEEDS = {"at": "AT", "action": "WHAT", "actor": "WHO", "signed": "SIGNED BY", "reason": "WHY"}
_ROLLOUTS = {"name": "ROLLOUT", "phase": "PHASE", "because": "BECAUSE"}


def list_releases(
    model: options.ModelOption = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Releases the controller has accepted, in order: signed and approved by whom, on what plan."""
    with options.client(connection) as client:
        rows = client.get("/v1/releases", model=model)
    output.show_rows(
        rows if as_json else [_told(row) for row in rows], _COLUMNS, as_json=as_json, name=NAME
    )
    output.say_empty(rows, "No release yet: `mailboat release build` makes one.", as_json=as_json)


def show_release(
    model: options.ModelName,
    version: options.Version,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """One release: what is in it, who decided what about it and why, its plan and rollouts."""
    from mailboat_controller.releases.approval_review import plan_sentences, release_sentences
    from mailboat_schemas.documents.release import ReleaseDocument
    from mailboat_schemas.plan import Plan

    with options.client(connection) as client:
        found = client.get(f"/v1/releases/{model}/{version}/standing")
        document = ReleaseDocument.parse(client.release_document(model, version))
    if as_json:
        output.show_json(found, name=NAME)
        return
    for sentence in release_sentences(document):
        print(output.plain_text(sentence))
    print()
    told = _told(found)
    fields = ("digest", "standing", "since", "by", "reason", "signed", "approved", "accepted_at")
    output.show_fields({key: told.get(key) for key in fields}, as_json=False)
    if found["approved_plan"] is not None:
        print("\nApproved plan:")
        for sentence in plan_sentences(Plan.model_validate(found["approved_plan"])):
            print(f"  {output.plain_text(sentence)}")
    print()
    output.show_rows([_told(deed) for deed in found["history"]], _DEEDS, as_json=False)
    print()
    output.show_rows(found["rollouts"], _ROLLOUTS, as_json=False)
    output.show_deliveries(found["deliveries"])


def _told(row: dict[str, Any]) -> dict[str, Any]:
    names = {"signed": "signed_by", "approved": "approved_by"}
    signers = {
        column: [f"{each['name'] or 'key'} ({each['keyid'][:8]})" for each in row.get(key, ())]
        for column, key in names.items()
    }
    return {**row, **signers}

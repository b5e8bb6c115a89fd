"""What `mailboat-agent status` says, for people, line by line."""

from typing import Any

from mailboat_agent.degraded.status_lines import describe_degraded
from mailboat_agent.drill.telling import describe_drills
from mailboat_agent.overlays.command import describe_config
from mailboat_agent.telemetry.figures import describe_telemetry
from mailboat_agent.transfer_lines import describe_transfers

_BEFORE = ("previous", "spare")


def describe(status: dict[str, Any]) -> list[str]:
    """A status for people, line by line."""
    report = status["report"]
    link = "connected" if status["connected"] else "not connected"
    expires = status["trust_expires"] or "unknown"
    unconfirmed = status["unconfirmed"]
    waiting = f"{unconfirmed['events']} events, {unconfirmed['telemetry']} telemetry windows"
    lines = [
        f"device    {report['device']} of {report['fleet']}, class {report['hardware_class']}",
        f"broker    {link}, not yet confirmed: {waiting}",
        f"manifest  {report['manifest_counter'] or 'none yet'}, trust metadata until {expires}",
        f"serving   {status['serving']['url']}/v2",
    ]
    lines += describe_config(report.get("config"))
    lines += describe_drift(status.get("drift") or {})
    lines += describe_transfers(status)
    lines += describe_drills(status.get("drills") or {})
    lines += describe_degraded(status.get("degraded") or {})
    lines += describe_telemetry(status.get("telemetry") or {})
    lines += [f"note      {note}" for note in report["notes"]]
    for model in report["models"]:
        serving = model["serving_version"] or "nothing"
        lines.append(f"model     {model['model']}: {model['phase']}, serves {serving}")
        if model.get("stopped_version"):
            lines.append(f"          stopped by policy, too far behind: {model['stopped_version']}")
        if model["target_version"]:
            lines.append(f"          on its way: {model['target_version']}")
        if model["because"]:
            lines.append(f"          {model['because']}")
        lines += _ways_back(model)
    return lines


def _ways_back(model: dict[str, Any]) -> list[str]:
    """The releases that ran here before, by whether they are still there to go back to."""
    ran = [(model.get(f"{which}_version"), model.get(f"{which}_digest")) for which in _BEFORE]
    whole = model.get("whole") or ()
    kept = ", ".join(version for version, digest in ran if version and digest in whole)
    gone = ", ".join(version for version, digest in ran if version and digest not in whole)
    lines = [f"          kept to go back to: {kept}"] if kept else []
    return [*lines, f"          ran before, not kept: {gone}"] if gone else lines


def describe_drift(drift: dict[str, Any]) -> list[str]:
    """What the last check of the disk found; nothing before the first."""
    if not drift.get("checked_at") and not drift.get("damaged"):
        return []
    checked = f"checked {drift['checked_at']}, {drift['files']} files"
    if not drift["checked_at"]:
        checked = "not checked since the start"
    counted = f"{len(drift['damaged'])} damaged, {drift['repaired']} repaired since the start"
    return [f"disk      {checked}; {counted}", *(f"          {each}" for each in drift["damaged"])]

"""What `mailboat-agent status` says first, for whoever stands before the device: does it work,
since when, what is it waiting for, and what is there to do. Pure; the details come below it.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from mailboat_schemas.reports import ModelPhase

# Note (what stands before a colon) -> what it means, and what to do; nothing where it passes by
# itself or is a person's wish. The same list, for operators: docs/errors.md, "Notes of a device".
_NOTES: Mapping[str, tuple[str, str]] = {
    "clock_untrusted": (
        "the clock cannot be right, so nothing new is installed",
        "set the clock (look at NTP, and at the battery of the clock)",
    ),
    "telemetry_dropped": (
        "there is no room left for measurements; some were dropped",
        "bring it back to the network for a while",
    ),
    "events_over_bound": (
        "very much waits to be told to the controller",
        "bring it back to the network; tell the operator, something repeats",
    ),
    "metered_wait": ("a download waits until tomorrow: the link is paid by the byte", ""),
    "held": ("an operator holds it as it is", ""),
    "pinned": ("an operator has fixed the release it runs", ""),
    "config_waits": ("new settings wait for the release they are for", ""),
    "config_unfit": (
        "its settings do not go with what runs",
        "tell the operator: config_unfit",
    ),
    "config_refused": (
        "its settings are not accepted",
        "tell the operator the code after config_refused",
    ),
    "degraded": ("it answers in a makeshift way", "tell the operator if it stays so"),
    "pressure-thermal": ("it is too hot", "look at fan, dust, sun and where it stands"),
    "pressure-power": ("it is short of power", "look at the power supply and the battery"),
    "disk_nearly_full": (
        "its disk is nearly full; the next release may not fit",
        "free some room on the disk, or tell the operator",
    ),
    "worker_unconfined": (
        "a safeguard around the model is missing on this system",
        "run `mailboat-agent doctor`, and tell the operator what it says",
    ),
    "nothing_to_serve": (
        "what ran here is not approved any more, and nothing else may run",
        "tell the operator: a release has to be approved",
    ),
    "storage_damaged": (
        "files on its disk are damaged; it goes on from memory",
        "do not restart it; tell the operator, and plan for another disk or card",
    ),
    "worker_restarting": (
        "the model has crashed and is being started again",
        "wait a minute; if it stays so, tell the operator",
    ),
    "stale": (
        "it is further behind than it should be",
        "bring it back to the network, or bring a release on a stick",
    ),
    "trust_stale": (
        "it was out of touch for so long that it installs nothing new",
        "bring it back to the network",
    ),
    "trust_damaged": (
        "its list of approved releases is damaged",
        "bring it back to the network: it fetches a new one by itself",
    ),
    "site_held": ("its site holds it as it is", ""),
    "site_rollback": ("its site has ordered it back to the release before", ""),
    "policy_held": ("a policy of the operators holds it as it is", ""),
    "stale_stopped": (
        "it was stopped: what ran is further behind than it may be",
        "bring it back to the network, or bring a release on a stick",
    ),
}
_GRAVE = frozenset({"stale_stopped", "nothing_to_serve", "trust_damaged", "storage_damaged"})
_ON_ITS_WAY = {
    ModelPhase.STAGING: "is being downloaded",
    ModelPhase.TRIAL: "is being tried",
    ModelPhase.SOAK: "runs on probation",
}
_LABEL_CHARS = 12


def in_plain_words(status: Mapping[str, Any], now: datetime) -> list[str]:
    """Line by line.

    Args:
        status: as `status.read_status` gives it.
        now: for how long ago something was.
    """
    report = status["report"]
    models = report["models"]
    idle = [each["model"] for each in models if not each["serving_version"]]
    problems = list(_problems(report["notes"]))
    lines = [_verdict(report["device"], models, idle, bool(problems)), ""]
    for each in models:
        lines += _labelled(each["model"], _model(each, status, now))
    lines += _labelled("controller", _link(status))
    lines += _labelled("attention", [f"{what} ({note})" for note, what, _ in problems])
    todo = list(dict.fromkeys(fix for _, _, fix in problems if fix))
    if not status["connected"]:
        todo.append("if the network should be there: `mailboat-agent doctor` says where it ends")
    return [*lines, *_labelled("to do", todo or ["nothing"])]


def _verdict(device: str, models: list[Any], idle: list[str], attention: bool) -> str:
    if not models:
        return f"{device} has no model to run yet."
    if idle:
        return f"{device} DOES NOT WORK for {', '.join(idle)}: nothing runs there."
    return f"{device} works{', but needs attention' if attention else ''}."


def _problems(notes: list[str]) -> Iterator[tuple[str, str, str]]:
    """Note, what it means and what to do; the grave ones first."""
    for note in sorted(notes, key=lambda note: note.partition(":")[0] not in _GRAVE):
        word, _, about = note.partition(":")
        what, fix = _NOTES.get(word, (word.replace("_", " "), "tell the operator this line"))
        yield note, f"{about}: {what}" if about and word != "config_refused" else what, fix


def _model(model: Mapping[str, Any], status: Mapping[str, Any], now: datetime) -> Iterator[str]:
    serving, target = model["serving_version"], model["target_version"]
    phase = ModelPhase(model["phase"])
    if not serving:
        yield "nothing runs"
    else:
        yield f"runs {serving}{_since(model['switched_at'], now)}, {_health(model, status)}"
        if model.get("answered_at") is not None:
            yield _answered(model["answered_at"], now)
    if target and target != serving:
        yield f"{target} {_ON_ITS_WAY.get(phase, 'is next')}{_progress(model)}"
    if model["because"] and (phase is not ModelPhase.COMMITTED or target or not serving):
        yield f"waits for: {model['because']}"


def _answered(seconds: int, now: datetime) -> str:
    if not seconds:
        return "nobody has asked it since the agent began"
    return f"last answered{_since(seconds, now).removeprefix(' since')}"


def _health(model: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    degraded = (status.get("degraded") or {}).get("now") or {}
    if model["model"] in degraded:
        return f"answers in a makeshift way ({degraded[model['model']]['mode']})"
    if f"worker_restarting:{model['model']}" in status["report"]["notes"]:
        return "has crashed and is being started again"
    if ModelPhase(model["phase"]) is ModelPhase.SOAK:
        return "on probation: it goes back by itself if it fails"
    return "healthy"


def _progress(model: Mapping[str, Any]) -> str:
    if not model["total_bytes"] or ModelPhase(model["phase"]) is not ModelPhase.STAGING:
        return ""
    return f", {100 * model['staged_bytes'] // model['total_bytes']} %"


def _link(status: Mapping[str, Any]) -> list[str]:
    waiting = sum(status["unconfirmed"].values())
    if status["connected"]:
        return [f"connected, {_waits(waiting)}"]
    return [f"not connected; it works on without. {_waits(waiting).capitalize()}"]


def _waits(waiting: int) -> str:
    if waiting == 1:
        return "1 message waits to be told"
    return f"{waiting} messages wait to be told" if waiting else "nothing waits to be told"


def _since(seconds: int, now: datetime) -> str:
    """Nothing where it is not known, or the clock was put back meanwhile."""
    if not seconds:
        return ""
    began = datetime.fromtimestamp(seconds, UTC)
    if began > now:
        return f" since {began:%Y-%m-%d %H:%M} UTC"
    return f" since {began:%Y-%m-%d %H:%M} UTC ({_ago((now - began).total_seconds())})"


def _ago(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _labelled(label: str, texts: Any) -> list[str]:
    """Under one label; a label longer than its column pushes its text aside."""
    return [
        f"{label if number == 0 else '':<{_LABEL_CHARS}}{' ' if len(label) >= _LABEL_CHARS else ''}"
        f"{text}"
        for number, text in enumerate(texts)
    ]

"""Which section of docs/runbook.md is for which alert."""

PAGE = "docs/runbook.md"

# By the anchor of the section.
SECTIONS: dict[str, tuple[str, ...]] = {
    "a-rollout-halted": (
        "MailboatRollbacks",
        "MailboatReleaseFailing",
        "MailboatModelErrors",
        "MailboatLatencyRegression",
    ),
    "many-devices-are-silent": (
        "MailboatFleetStale",
        "MailboatDevicesGone",
        "MailboatManifestNotAnswered",
    ),
    "a-site-is-cut-off": ("MailboatSiteCut",),
    "the-broker-is-down": (
        "MailboatBrokerDisconnected",
        "MailboatOutboxStuck",
        "MailboatPublishRefused",
    ),
    "the-controller-is-down-or-its-disk-full": ("MailboatControllerDown",),
    "trust-runs-out": ("MailboatTimestampOld", "MailboatTrustExpiring"),
    "a-device-has-two-lives": ("MailboatDeviceDoubled",),
    "what-devices-tell-is-behind": (
        "MailboatIngestDown",
        "MailboatIngestSlow",
        "MailboatQuarantineGrowing",
        "MailboatDeviceFloods",
    ),
    "many-certificates-end": ("MailboatSiteCertificateEnds",),
    "in-the-morning": (
        "MailboatModelsStopped",
        "MailboatDevicesDiskLow",
        "MailboatDevicesClockWrong",
        "MailboatDrillFailed",
        "MailboatWebhookStuck",
        "MailboatWebhookDisabled",
        "MailboatArtifactsDamaged",
    ),
}


def section_of(alert: str) -> str:
    """The anchor. Raises `StopIteration` for an alert that nobody wrote a section for."""
    return next(section for section, alerts in SECTIONS.items() if alert in alerts)

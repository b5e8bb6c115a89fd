"""Why releases failed their trial here: the newest few, for whoever looks at the device.

The event tells the reason and what fits into it. What is kept here is the same and more: what the
model answered and should have, and the last words of its process.
"""

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mailboat_agent.atomic_file import DiskFailing, replace_durably
from mailboat_agent.serving.gate_failed import EVIDENCE_ITEMS_MAX, GateFailed
from mailboat_agent.serving.trial import TrialReport
from mailboat_schemas.errors import DiskFull

EVIDENCE_FILES_MAX = 16
PASSED_OVER_CHARS_MAX = 200  # of why one provider was not taken
EVIDENCE_FILE_BYTES_MAX = 64 << 10  # so that all of them are a megabyte
_log = logging.getLogger(__name__)


class TrialEvidence:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def keep(self, model: str, version: str, digest: str, failed: GateFailed) -> str:
        """Name of the file; empty if the disk did not take it, which changes no verdict.

        A release that fails again for the same reason takes the place of its earlier failure.
        """
        name = f"{model}-{version}-{digest[:12]}-{failed.reason}.json"
        content = {
            "model": model,
            "version": version,
            "document": digest,
            "reason": failed.reason,
            "what": failed.what,
            "evidence": failed.evidence,
        }
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_durably(self.directory / name, _bounded(content, failed.detail))
            self._make_room()
        except (DiskFull, DiskFailing, OSError) as error:
            _log.warning("The evidence of a failed trial is not kept: %s", error)
            return ""
        return name

    def _make_room(self) -> None:
        files = [path for path in self.directory.iterdir() if path.suffix == ".json"]
        files.sort(key=lambda path: path.lstat().st_mtime_ns)
        for old in files[:-EVIDENCE_FILES_MAX]:
            with suppress(OSError):
                old.unlink()


def trial_figures(report: TrialReport) -> dict[str, Any]:
    """Of a trial that was passed, for the event of the release that begins to serve.

    ``passed_over`` is there if the release does not run on the provider that it likes best.
    """
    figures: dict[str, Any] = {
        "provider": report.provider,
        "runtime": report.runtime_version,
        "cold_start_ms": round(report.cold_start_ms, 1),
        "latency_p50_ms": round(report.latency_p50_ms, 3),
        "latency_p95_ms": round(report.latency_p95_ms, 3),
        "latency_p99_ms": round(report.latency_p99_ms, 3),
        "peak_memory_bytes": report.peak_memory_bytes,
        "largest_difference": report.largest_difference,
    }
    if report.passed_over:
        told = [why[:PASSED_OVER_CHARS_MAX] for why in report.passed_over[:EVIDENCE_ITEMS_MAX]]
        figures["passed_over"] = told
    return figures


def _bounded(content: dict[str, Any], detail: Mapping[str, Any]) -> bytes:
    """With as much of the detail as fits."""
    for candidate in (content | {"detail": dict(detail)}, content, content | {"evidence": {}}):
        written = json.dumps(candidate, indent=1, default=str).encode()
        if len(written) <= EVIDENCE_FILE_BYTES_MAX:
            return written
    return json.dumps({"reason": content["reason"]}).encode()

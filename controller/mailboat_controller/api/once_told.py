"""Answers with a secret that is told once: nobody on the way may keep them, nor do we."""

from fastapi import Depends, Response


def _keep_nowhere(response: Response) -> None:
    # `idempotency.py` goes by it as well.
    response.headers["Cache-Control"] = "no-store"


OnceTold = Depends(_keep_nowhere)

"""What the pages about everybody show: who is how far, and how far people agree."""

from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request

from robopref.data.label_tokens import AnnotatorTokens
from robopref.data.preferences import Preferences
from robopref.errors import DataError
from robopref.labeling.agreement_report import report_of
from robopref.labeling.desk import Desk
from robopref.labeling.guard import Visitor
from robopref.labeling.plan import columns

PAIRS_SHOWN = 100  # the most disputed ones


def visitor(request: Request) -> Visitor:
    """Return who sent a request; the guard has looked."""
    return request.state.visitor


def admins_only(request: Request) -> None:
    """Refuse whoever came with the token of one annotator."""
    if not visitor(request).admin:
        raise HTTPException(403, "This page is for the person who runs the study.")


def serve_overview(app: FastAPI, desk: Desk, annotators: AnnotatorTokens | None) -> None:
    """Add the API of the pages ``/quality`` and ``/admin``."""

    @lru_cache(maxsize=1)
    def quality_of(version: tuple[int, int]) -> dict[str, Any]:
        try:
            report = report_of(desk.judgements(), gold=_gold(desk), singles=desk.plan.feedback == "updown")
        except DataError as error:  # nothing was answered
            return {"empty": str(error)}
        found = report.to_json()
        found["by_pair"] = found["by_pair"][:PAIRS_SHOWN]
        return found

    @app.get("/api/quality")
    def quality(request: Request) -> dict[str, Any]:
        """Agreement, consistency, bias and times of everybody."""
        admins_only(request)
        return {"feedback": desk.plan.feedback} | quality_of(desk.version)

    @app.get("/api/progress")
    def progress(request: Request) -> dict[str, Any]:
        """Who is how far, and who has what before them."""
        admins_only(request)
        return {
            "feedback": desk.plan.feedback,
            "items": desk.plan.limit,
            "shared": _shared(desk),
            "begun": desk.begun(),
            "people": [asdict(person) for person in desk.progress()],
            "tokens": annotators.holders() if annotators else [],
        }


def _shared(desk: Desk) -> int:
    """Return about how many of the items that will be asked about everybody is asked about."""
    return round(len(desk.plan.shared) * desk.plan.limit / max(1, len(desk.plan.items)))


def _gold(desk: Desk) -> Preferences | None:
    """Return the checks, whose better half comes first."""
    checks = desk.plan.items[: desk.plan.golden]
    if not checks:
        return None
    ones = np.ones(len(checks), np.float32)
    return Preferences(*columns(checks), ones, ones)

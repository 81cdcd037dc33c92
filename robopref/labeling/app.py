"""The labelling application over HTTP: one page, its API, and the clips."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import PurePath
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as StarletteHTTPException

from robopref.data.judgement import Feedback
from robopref.data.label_tokens import AnnotatorTokens
from robopref.errors import ConfigError, DataError, RoboprefError
from robopref.labeling.answers import Choice, annotator_name
from robopref.labeling.clips import Segment
from robopref.labeling.desk import Desk
from robopref.labeling.guard import Guard, comes_from_here
from robopref.labeling.overview import admins_only, serve_overview, visitor
from robopref.labeling.questions import Question, StaleQuestionError, UnknownQuestionError
from robopref.labeling.refusals import said, wants_page
from robopref.labeling.studio import NOW, SOON, Studio
from robopref.labeling.tally import tally

LOOK_AHEAD = 3  # pairs whose clips are made while a person looks at one
CLIP_PATIENCE_S = 20.0  # then the page asks again
FOREVER = "private, max-age=31536000, immutable"

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

Name = Annotated[str, Field(min_length=1, max_length=200)]
Step = Annotated[int, Field(ge=0, le=10_000_000)]
Key = Annotated[str, Path(max_length=64)]


@dataclass(frozen=True)
class Study:
    """What the page shows around the clips.

    Attributes:
        task: Name of the task.
        question: What people are asked.
        strength: Whether "slightly better" is an answer.
        annotator: Who labels; None asks each person for a name.
        feedback: What is asked: pairs, thumbs for one clip, or rankings.
        steps_per_frame: Actions of the robot from one frame of a clip to the next.
    """

    task: str
    question: str
    strength: bool
    annotator: str | None
    feedback: Feedback = "pair"
    steps_per_frame: int = 1


class AnswerIn(BaseModel):
    """An answer as the page sends it."""

    model_config = ConfigDict(extra="forbid")
    annotator: Name
    question: Annotated[str, Field(max_length=64)]
    choice: Choice
    slightly: bool = False
    note: Annotated[str, Field(max_length=2000)] | None = None
    decided: tuple[Step, Step] | None = None  # first step and number of steps, from the start of both clips
    response_time_s: Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)] | None = None


class UndoIn(BaseModel):
    """Which answer is taken back."""

    model_config = ConfigDict(extra="forbid")
    annotator: Name
    answer: Annotated[str, Field(max_length=64)]


def build_app(
    desk: Desk,
    studio: Studio,
    study: Study,
    *,
    token: str | None = None,
    annotators: AnnotatorTokens | None = None,
    learning: Callable[[], dict[str, Any]] | None = None,
) -> FastAPI:
    """Build the application.

    Args:
        desk: Hands out questions and takes answers.
        studio: Makes clips; closed when the application ends.
        study: What the page says.
        token: What every request must carry; None lets in this machine only.
        annotators: Tokens that let in one person each, beside ``token``.
        learning: Says what was learned while people label; the page shows its curve.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(studio.close)

    app = FastAPI(title="robopref label", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.ending = asyncio.Event()  # set by a server that is about to end
    app.add_middleware(Guard, token=token, annotators=annotators)
    _explain_errors(app)
    _serve_page(app)
    _serve_questions(app, desk, studio, study)
    _serve_clips(app, studio)
    serve_overview(app, desk, annotators)

    @app.get("/api/study")
    def about(request: Request) -> dict[str, Any]:
        seen_by = visitor(request)
        own = {"bound": seen_by.annotator is not None, "admin": seen_by.admin, "online": learning is not None}
        return asdict(study) | own | {"annotator": seen_by.annotator or study.annotator}

    @app.get("/api/online")
    def curve() -> dict[str, Any]:
        """Return the learning curve, or nothing where nothing learns."""
        return {} if learning is None else learning()

    return app


def _serve_questions(app: FastAPI, desk: Desk, studio: Studio, study: Study) -> None:
    @app.get("/api/question")
    def question(
        request: Request, annotator: Annotated[str, Query(min_length=1, max_length=200)]
    ) -> JSONResponse:
        return _turn(desk, studio, _own_name(request, annotator), retry=True)

    @app.post("/api/answer")
    def answer(request: Request, given: AnswerIn) -> JSONResponse:
        if given.slightly and not study.strength:
            raise ConfigError("This study does not ask how much better a clip is.")
        name = _own_name(request, given.annotator)
        desk.answer(
            name,
            given.question,
            given.choice,
            slightly=given.slightly,
            note=(given.note or "").strip() or None,
            decided=given.decided,
            response_time_s=given.response_time_s,
        )
        return _turn(desk, studio, name)

    @app.post("/api/undo")
    def undo(request: Request, wanted: UndoIn) -> JSONResponse:
        name = _own_name(request, wanted.annotator)
        desk.undo(name, wanted.answer)
        return _turn(desk, studio, name)


def _own_name(request: Request, text: str) -> str:
    """Return an annotator's name, which must be the token's where the token is bound to one."""
    name = annotator_name(text)
    bound = visitor(request).annotator
    if bound not in (None, name):
        raise HTTPException(403, f"This token is {bound}'s; it does not let in {name}.")
    return name


def _turn(desk: Desk, studio: Studio, annotator: str, *, retry: bool = False) -> JSONResponse:
    """Send all that the page needs for the next pair, and have its clips and the following ones made."""
    question = desk.question(annotator)
    given = desk.given(annotator)
    done, remaining = desk.done(annotator), desk.remaining(annotator)
    shown = None if question is None else _shown(question, studio, retry)
    upcoming = [
        [studio.order(segment, SOON) for segment in item] for item in desk.upcoming(annotator, LOOK_AHEAD)
    ]
    return JSONResponse(
        {
            "annotator": annotator,
            "question": shown,
            "upcoming": upcoming,
            "done": done,
            "total": done + remaining,
            "kept": desk.kept(annotator),
            "tally": asdict(tally(given)),
            "last": given[-1].judgement.uid if given else None,
        }
    )


def _shown(question: Question, studio: Studio, retry: bool) -> dict[str, Any]:
    def clip(segment: Segment) -> str:
        key = studio.order(segment, NOW)
        if retry:
            studio.retry(key)
            studio.order(segment, NOW)
        return key

    shown: dict[str, Any] = {"id": question.id, "clips": [clip(segment) for segment in question.sides]}
    if question.ranked is not None:
        members = question.ranked.members
        places = [members.index((side.episode, side.start, side.length)) for side in question.sides]
        shown["list"] = {
            "clips": len(members),
            "places": places,
            "most_left": question.ranked.ranking.most_left,
            "rest": [studio.order(Segment(*member), SOON) for member in members],
        }
    return shown


def _serve_clips(app: FastAPI, studio: Studio) -> None:
    @app.get("/api/clips/{key}")
    async def clip(request: Request, key: Key) -> dict[str, Any]:
        """Wait for a clip; its state is ready, making or failed."""
        result = studio.result(key)
        if result is None:
            raise HTTPException(404, "There is no such clip.")
        made = asyncio.wrap_future(result)
        made.add_done_callback(lambda future: future.cancelled() or future.exception())  # somebody looked
        ending = asyncio.ensure_future(request.app.state.ending.wait())
        await asyncio.wait([made, ending], timeout=CLIP_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if not made.done():
            return {"state": "making"}
        try:
            filmed = made.result()
        except (RoboprefError, OSError) as error:
            return {"state": "failed", "reason": str(error)}
        return {"state": "ready", **asdict(filmed)}

    @app.get("/clips/{key}.mp4", response_class=FileResponse)
    def video(key: Key) -> Response:
        path = studio.path(key)  # found by name among the clips that were ordered: no path is built from it
        if path is None:
            raise HTTPException(404, "There is no such clip.")
        return FileResponse(path, media_type="video/mp4", headers={"Cache-Control": FOREVER})


def _serve_page(app: FastAPI) -> None:
    folder = resources.files("robopref.labeling") / "static"
    content = {
        file.name: file.read_bytes() for file in folder.iterdir() if PurePath(file.name).suffix in _TYPES
    }

    # Another site may open our page under any name, but not answer for a person: the page waits for them.
    content["index-lured.html"] = content["index.html"].replace(b"<body>", b"<body data-lured>")

    def send(name: str) -> Response:
        if name not in content:
            raise HTTPException(404, "There is no such page.")
        return Response(
            content[name], media_type=_TYPES[PurePath(name).suffix], headers={"Cache-Control": "no-cache"}
        )

    @app.get("/", include_in_schema=False)
    def page(request: Request) -> Response:
        # Over plain HTTP no browser says whose link it was; only one that brings a token gets this far.
        brought = "token" in request.query_params and "sec-fetch-site" not in request.headers
        waits = brought or not comes_from_here(request.headers)
        return send("index-lured.html" if waits else "index.html")

    @app.get("/quality", include_in_schema=False)
    def quality(request: Request) -> Response:
        admins_only(request)
        return send("quality.html")

    @app.get("/admin", include_in_schema=False)
    def admin(request: Request) -> Response:
        admins_only(request)
        return send("admin.html")

    @app.get("/static/{name}", include_in_schema=False)
    def part(name: str) -> Response:
        return send(name)


def _explain_errors(app: FastAPI) -> None:
    """Answer every failure with a sentence and no traceback."""

    def say(status: int, sentence: str) -> JSONResponse:
        return JSONResponse({"error": sentence}, status)

    @app.exception_handler(StaleQuestionError)
    async def stale(_: Request, error: StaleQuestionError) -> JSONResponse:
        return say(409, str(error))

    @app.exception_handler(ConfigError)
    async def refused(_: Request, error: ConfigError) -> JSONResponse:
        return say(422, str(error))

    @app.exception_handler(UnknownQuestionError)
    async def unknown(_: Request, error: UnknownQuestionError) -> JSONResponse:
        return say(404, str(error))

    @app.exception_handler(DataError)
    async def impossible(_: Request, error: DataError) -> JSONResponse:
        return say(503, str(error))

    @app.exception_handler(StarletteHTTPException)
    async def known(request: Request, error: StarletteHTTPException) -> Response:
        as_page = wants_page(request.url.path, request.headers.get("accept", ""))
        kind, body = said(str(error.detail), as_page=as_page, let_in=True)
        return Response(body, error.status_code, headers=error.headers, media_type=kind)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()[0]
        return say(422, f"{'.'.join(str(part) for part in found['loc'])}: {found['msg']}")

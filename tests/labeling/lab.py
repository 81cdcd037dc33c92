"""The labelling application as a client in the same process sees it."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi.testclient import TestClient

from robopref.data.label_store import LabelStore
from robopref.labeling.app import Study, build_app
from robopref.labeling.clips import Library
from robopref.labeling.desk import Desk
from robopref.labeling.plan import make_plan
from robopref.labeling.studio import Studio
from tests.labeling.made import made_store

HERE = "http://127.0.0.1:8000"


@dataclass
class Lab:
    """Starts applications; called with a token or other options."""

    start: Callable[..., TestClient]
    labels: LabelStore
    desk: Desk

    def __call__(self, **options):
        return self.start(**options)


@contextmanager
def opened_lab(folder):
    """Starts applications; all share one store, and the studio that draws its clips."""
    store = made_store(folder / "store")
    studio = Studio(Library(store, store.path / "clips"))
    with LabelStore.beside(store) as labels:
        desk = Desk(make_plan(store, pairs=28, shared=1.0), labels, store, repeated=0.0, mirrored=0.0)

        def start(*, token=None, strength=False, base=HERE, **more):
            study = Study("toy", "Which?", strength, None)
            app = build_app(desk, studio, study, token=token, **more)
            return TestClient(app, base, raise_server_exceptions=False)

        yield Lab(start, labels, desk)
    studio.close()


def ask(client, name):
    return client.get("/api/question", params={"annotator": name}).json()


def answer(client, name, question, choice="left", **more):
    return client.post(
        "/api/answer", json={"annotator": name, "question": question, "choice": choice, **more}
    )

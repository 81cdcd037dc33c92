"""A person's session in a real browser: headless Chromium against the real server."""

import itertools

import httpx
import pytest

from robopref.data.label_store import LabelStore
from robopref.data.label_tokens import AnnotatorTokens
from robopref.training.collect import collect
from tests.labeling.made import made_store
from tests.labeling.server import serving
from tests.labeling.visitor import Visitor

SMALL = "view={width: 96, height: 96}"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Six short episodes of Meta-World."""
    return collect(
        tmp_path_factory.mktemp("browser") / "store",
        env_id="robopref.envs:robopref/mw-drawer-open-v0",
        env_options={"horizon": 60},
        behaviours=[{"kind": "expert"}, {"kind": "random"}],
        episodes=6,
        seed=0,
        workers=0,
        progress=False,
    )


@pytest.fixture(scope="module")
def server(store):
    with serving(store.path, SMALL, "shared=1.0", "mirrored=0", "repeated=0") as running:
        yield running


@pytest.fixture
def visit(browser, server):
    visitors = []

    def go(name, url=None, **context):
        visitors.append(Visitor(browser, f"{url or server.url}?annotator={name}", **context))
        return visitors[-1]

    yield go
    for visitor in visitors:
        visitor.page.context.close()


def stored(store, name):
    with LabelStore.beside(store) as labels:
        return list(labels.judgements(annotator=name).values())


def test_the_keyboard_answers_and_takes_back(store, visit):
    visitor = visit("keyboard")
    asked = [visitor.press(key) for key in ("ArrowLeft", "ArrowRight", "ArrowDown", "=", "s")]
    judgements = stored(store, "keyboard")
    assert [judgement.uid for judgement in judgements] == asked
    left, right = ("a", "b") if judgements[0].shown_left == "a" else ("b", "a")
    assert judgements[0].answer == left
    left, right = ("a", "b") if judgements[1].shown_left == "a" else ("b", "a")
    assert judgements[1].answer == right
    assert [judgement.answer for judgement in judgements[2:]] == ["equal", "equal", "skip"]
    assert all(0.2 < (judgement.response_time_s or 0) < 60 for judgement in judgements)
    visitor.press("z")
    visitor.press("z")
    assert [judgement.uid for judgement in stored(store, "keyboard")] == asked[:3]
    assert visitor.problems == []
    hosts = {httpx.URL(url).host for url in visitor.requests if not url.startswith("blob:")}
    assert hosts == {"127.0.0.1"}


def test_a_reason_is_stored_and_its_letters_are_no_answers(store, visit):
    visitor = visit("reason")
    visitor.ready()
    visitor.page.keyboard.press("n")
    visitor.page.keyboard.type("slips, z= 12?")
    visitor.page.keyboard.press("Enter")
    visitor.press("ArrowRight")
    (judgement,) = stored(store, "reason")
    assert judgement.note == "slips, z= 12?"


def test_both_clips_play_in_lockstep_within_a_frame(visit):
    visitor = visit("lockstep")
    visitor.ready()
    apart = visitor.page.evaluate(
        """async () => {
          const { player } = robopref, apart = [], end = performance.now() + 4000;
          while (performance.now() < end) {
            await new Promise(requestAnimationFrame);
            if (!player.playing || player.resting) continue;
            if (player.videos.some((video) => video.paused || video.seeking)) continue;
            const [left, right] = player.videos.map((video) => video.currentTime * player.clips[0].fps);
            apart.push(Math.abs(left - right));
          }
          return apart;
        }"""
    )
    assert len(apart) > 20
    assert sorted(apart)[int(0.95 * len(apart))] < 1.0, max(apart)


def rewind(visitor):
    """Pause on the first frame: a short clip may stand on its last one, from which there is no step on."""
    visitor.page.keyboard.press("Space")
    visitor.page.evaluate("robopref.player.step(-1000)")
    visitor.until("() => [0, 1].every((side) => robopref.player.frameOf(side) === 0)")


def test_pausing_and_stepping_moves_both_by_one_frame(visit):
    visitor = visit("stepping")
    visitor.ready()
    visitor.page.keyboard.press("Space")
    visitor.page.keyboard.press(",")
    visitor.page.wait_for_timeout(300)
    frame = visitor.page.evaluate("robopref.player.frameOf(0)")
    for key, by in ((",", -1), (".", 1), (".", 1)):
        visitor.page.keyboard.press(key)
        frame = max(0, frame + by)
        visitor.until(f"() => [0, 1].every((side) => robopref.player.frameOf(side) === {frame})")
    visitor.page.keyboard.press("1")
    assert visitor.page.evaluate("robopref.player.videos.map((video) => video.playbackRate)") == [0.25, 0.25]


def test_a_reload_goes_on_with_the_same_pair(visit):
    visitor = visit("reload")
    visitor.press("ArrowLeft")
    shown = visitor.ready()
    visitor.page.reload()
    assert visitor.ready() == shown
    assert visitor.page.inner_text("#count").startswith("1 of")


def test_two_people_label_at_once_and_each_sees_no_pair_twice(store, visit):
    people = {name: visit(name) for name in ("anna", "bert")}
    for _ in range(4):
        for visitor in people.values():
            visitor.press("ArrowLeft")
    for name in people:
        pairs = [(judgement.a_episode, judgement.b_episode) for judgement in stored(store, name)]
        assert len(pairs) == len(set(pairs)) == 4


def test_without_a_name_the_page_asks_for_one(store, browser, server):
    visitor = Visitor(browser, server.url)
    visitor.page.wait_for_selector("#name[open]")
    visitor.page.fill("#name-input", "  Zoë   Q ")
    visitor.page.click("#name-form button")
    visitor.press("ArrowLeft")
    assert len(stored(store, "Zoë Q")) == 1
    visitor.page.context.close()


def test_a_link_of_another_site_takes_no_question_before_the_person_starts(browser, server):
    visitor = Visitor(browser, "about:blank")
    visitor.page.set_content(f"<a href='{server.url}?annotator=lured&token=secret'>Look</a>")
    visitor.page.click("a")
    visitor.page.wait_for_selector("#name[open]")
    assert visitor.page.input_value("#name-input") == "lured"
    assert visitor.page.url == f"{server.url}?annotator=lured"
    assert not any("/api/question" in url for url in visitor.requests)
    visitor.page.click("#name-form button")
    visitor.ready()
    visitor.page.context.close()


def test_buttons_answer_by_touch_on_a_phone_without_scrolling_sideways(store, visit):
    visitor = visit("touch", viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    shown = visitor.ready()
    visitor.page.tap("button.choice.right")
    visitor.another_than(shown)
    assert len(stored(store, "touch")) == 1
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 390
    low = visitor.page.evaluate("document.querySelector('.choice.equal').getBoundingClientRect().bottom")
    assert low < 844


def test_an_answer_given_while_the_server_is_dead_is_stored_when_it_comes_back(store, visit):
    options = (SMALL, "shared=1.0")
    with serving(store.path, *options) as first:
        visitor = visit("patient", first.url)
        shown = visitor.ready()
    visitor.page.keyboard.press("ArrowLeft")
    visitor.until("() => document.getElementById('notice').innerText.includes('kept')")
    with serving(store.path, *options, port=first.port):
        visitor.another_than(shown)
        assert [judgement.uid for judgement in stored(store, "patient")] == [shown]
        visitor.press("ArrowRight")
    assert len(stored(store, "patient")) == 2


def test_unconfirmed_answers_of_two_people_in_one_browser_are_both_stored(store, browser, server):
    context = browser.new_context()
    asked = {}
    for name in ("first at it", "second at it"):
        visitor = Visitor(context, f"{server.url}?annotator={name}")
        asked[name] = visitor.ready()
        # In the page itself: a closing page's network is let go first, and what it asks then would arrive.
        visitor.page.evaluate("() => { window.fetch = async () => { throw new TypeError('cut off'); }; }")
        visitor.page.keyboard.press("ArrowLeft")
        visitor.until("() => document.getElementById('notice').innerText.includes('kept')")
        visitor.page.close()
    for name in asked:
        assert stored(store, name) == []
        visitor = Visitor(context, f"{server.url}?annotator={name}")
        visitor.ready()
        assert [judgement.uid for judgement in stored(store, name)] == [asked[name]]
        visitor.page.close()
    context.close()


def test_an_answer_that_is_not_let_in_is_kept_and_stored_when_the_right_token_is_there(store, browser):
    tokens = AnnotatorTokens(f"sqlite:///{store.path / 'labels.sqlite'}")
    another = tokens.issue("somebody else")
    tokens.close()
    with serving(store.path, SMALL, "shared=1.0", "token=the-token-of-the-team") as team:
        visitor = Visitor(browser, f"{team.url}&annotator=kept")
        asked = []
        for token, sentence in (("no-such-token", "needs the token"), (another, "somebody else's")):
            asked.append(visitor.ready())
            cookie = {"name": "robopref_token", "value": token, "url": team.url}
            visitor.page.context.add_cookies([cookie])
            visitor.page.keyboard.press("ArrowLeft")
            visitor.until("words => document.getElementById('notice').innerText.includes(words)", sentence)
            assert len(stored(store, "kept")) == len(asked) - 1
            visitor.page.goto(f"{team.url}&annotator=kept")
            visitor.ready()
            assert [judgement.uid for judgement in stored(store, "kept")] == asked
        visitor.page.context.close()


def test_when_nothing_is_left_the_page_says_so_and_the_last_answer_can_be_taken_back(store, visit, server):
    for _ in range(14):  # of 15 pairs
        question = httpx.get(f"{server.url}api/question", params={"annotator": "last"}).json()["question"][
            "id"
        ]
        body = {"annotator": "last", "question": question, "choice": "equal"}
        httpx.post(f"{server.url}api/answer", json=body).raise_for_status()
    visitor = visit("last")
    visitor.press("ArrowLeft")
    visitor.page.wait_for_selector("#done:not([hidden])")
    visitor.page.keyboard.press("z")
    visitor.ready()
    assert len(stored(store, "last")) == 14


@pytest.mark.slow
def test_an_unconfirmed_answer_that_cannot_be_read_is_given_up_and_the_page_says_so(visit):
    visitor = visit("torn")
    shown = visitor.ready()
    visitor.page.evaluate("localStorage.setItem('robopref.pending.torn', '{')")
    visitor.page.reload()
    assert visitor.ready() == shown
    assert "could not be read" in visitor.page.inner_text("#notice")
    assert visitor.page.evaluate("localStorage.getItem('robopref.pending.torn')") is None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fifty_pairs_by_keyboard_alone_with_undo_and_a_reload_in_the_middle(tmp_path, browser):
    data = made_store(tmp_path / "store", 12)
    with serving(data.path, "repeated=0.05", "mirrored=0.05", "pairs=60") as server:
        visitor = Visitor(browser, f"{server.url}?annotator=fifty")
        keys = itertools.cycle(["ArrowLeft", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "s", "="])
        expected = []
        for number, key in zip(range(50), keys, strict=False):
            expected.append(visitor.press(key))
            if number % 10 == 9:
                visitor.press("z")
                expected.pop()
            if number == 25:
                visitor.page.reload()
        assert [judgement.uid for judgement in stored(data, "fifty")] == expected
        assert len(expected) == 45
        assert visitor.problems == []
        visitor.page.context.close()


@pytest.mark.slow
def test_clips_alone_get_thumbs(tmp_path, browser):
    data = made_store(tmp_path / "store")
    with serving(data.path, "feedback=updown") as server:
        visitor = Visitor(browser, f"{server.url}?annotator=tom")
        for key in ("ArrowUp", "ArrowDown", "s"):
            visitor.press(key)
        assert [judgement.answer for judgement in stored(data, "tom")] == ["up", "down", "skip"]
        assert not visitor.page.is_visible("#right")
        assert visitor.problems == []
        visitor.page.context.close()


@pytest.mark.slow
def test_a_list_is_ranked_and_its_rest_given_up(tmp_path, browser):
    data = made_store(tmp_path / "store")
    with serving(data.path, "feedback=ranking", "k=4", "pairs=3") as server:
        visitor = Visitor(browser, f"{server.url}?annotator=ria")
        visitor.press("ArrowLeft")
        assert "4 comparisons to go" in visitor.page.inner_text("#listed")
        visitor.press("r")
        visitor.press("ArrowRight")
        visitor.press("z")
        assert [judgement.answer for judgement in stored(data, "ria")][1] == "rest"
        with LabelStore.beside(data) as labels:
            assert [ranked.done for ranked in labels.rankings()] == [True]
        assert visitor.problems == []
        visitor.page.context.close()


def test_the_part_that_decided_is_marked_by_keys(store, visit):
    visitor = visit("marker")
    visitor.ready()
    rewind(visitor)
    for frame, key in ((1, "i"), (4, "o")):
        while (shown := visitor.page.evaluate("robopref.player.frame")) < frame:
            visitor.page.keyboard.press(".")
            visitor.until(f"() => robopref.player.frame === {shown + 1}")
        visitor.page.keyboard.press(key)
    visitor.press("ArrowLeft")
    (judgement,) = stored(store, "marker")
    per_frame = visitor.page.evaluate("robopref.state.study.steps_per_frame")
    assert (judgement.decided_start, judgement.decided_length) == (per_frame, 3 * per_frame)


def test_a_mark_on_the_last_frame_means_the_last_action(store, visit):
    visitor = visit("end")
    visitor.ready()
    rewind(visitor)
    visitor.page.evaluate("robopref.player.step(1000)")
    visitor.until("() => robopref.player.frame === robopref.player.frames - 1")
    visitor.page.keyboard.press("i")
    visitor.press("ArrowLeft")
    (judgement,) = stored(store, "end")
    per_frame, frames = visitor.page.evaluate(
        "[robopref.state.study.steps_per_frame, robopref.player.frames]"
    )
    assert (judgement.decided_start, judgement.decided_length) == ((frames - 2) * per_frame, per_frame)


def test_the_pages_about_everybody_show_names_and_numbers(store, visit, server):
    visitor = visit("seen")
    visitor.press("ArrowLeft")
    for path, wanted in (("admin", "#people progress"), ("quality", "#people svg")):
        visitor.page.goto(server.url + path)
        visitor.page.wait_for_selector(wanted)
        assert "seen" in visitor.page.inner_text("#people")
    assert visitor.problems == []

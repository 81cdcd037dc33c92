"""Whom the pages can be used by: people at a keyboard, a tablet, a screen reader, and with weak eyes.

The browser itself says what it shows: computed styles, boxes, and the tree that screen readers are given.
"""

import pytest

from tests.labeling.made import made_store
from tests.labeling.server import serving
from tests.labeling.visitor import Visitor

TOKEN = "the-token-of-the-team"
THEMES = ("light", "dark")
NAMED = {
    "button",
    "link",
    "textbox",
    "slider",
    "progressbar",
    "dialog",
    "image",
    "group",
    "region",
    "table",
    "Video",
}

# WCAG 2.2, 1.4.3: relative luminance and contrast of every text that is seen, with what lies behind it.
TEXTS = """() => {
  const parse = (text) => {
    const numbers = text.match(/-?[\\d.]+(e-?\\d+)?/g).map(Number);
    const rgb = text.startsWith("color(srgb") ? numbers.slice(0, 3).map((x) => 255 * x) : numbers.slice(0, 3);
    return [...rgb, numbers[3] ?? 1];
  };
  const over = (top, below) => top.slice(0, 3).map((x, i) => x * top[3] + below[i] * (1 - top[3]));
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.unshift(parse(getComputedStyle(e).backgroundColor));
    const paper = matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0] : [255, 255, 255];
    return layers.reduce((below, top) => over(top, below), paper);
  };
  const luminance = (rgb) => {
    const linear = (x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb.map((x) => linear(x / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (text, element) => {
    const back = behind(element);
    const [dark, light] = [luminance(over(parse(text), back)), luminance(back)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const found = [];
  for (const e of document.body.querySelectorAll("*")) {
    if (!e.checkVisibility({ visibilityProperty: true }) || e.closest(".hidden, :disabled")) continue;
    const style = getComputedStyle(e);
    const words = [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
    const color = e instanceof SVGElement ? style.fill : style.color;
    if (words) found.push([words, contrast(color, e)]);
    if (e.placeholder) found.push([e.placeholder, contrast(getComputedStyle(e, "::placeholder").color, e)]);
  }
  return found;
}"""

# In a dialog, what lies below cannot be reached.
FOCUSABLE = """() => {
  const top = document.querySelector("dialog[open]") ?? document;
  const all = top.querySelectorAll("button, a[href], input, [tabindex='0']");
  return [...all].filter((e) => e.checkVisibility({ visibilityProperty: true }) && !e.disabled);
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    store = made_store(tmp_path_factory.mktemp("access") / "store")
    options = ("shared=1.0", "mirrored=0", "repeated=0", "strength=true", f"token={TOKEN}")
    with serving(store.path, *options) as running:
        yield running


@pytest.fixture
def visit(browser, server):
    """Opens pages: the token is in the cookie of the person's first page."""
    visitors = []

    def go(name, **context):
        visitors.append(Visitor(browser.new_context(**context), f"{server.url}&annotator={name}"))
        visitors[-1].ready()
        return visitors[-1]

    yield go
    for visitor in visitors:
        visitor.page.context.close()


def places(visitor, server):
    """Show every page and dialog, one after the other, and give its name."""
    page, root = visitor.page, server.url.partition("?")[0]
    yield "pair"
    page.keyboard.press("?")
    yield "help"
    page.keyboard.press("Escape")
    page.click("#who")
    yield "name"
    page.keyboard.press("Escape")
    visitor.press("ArrowLeft")
    for name, wanted in (("quality", "#people td"), ("admin", "#people progress"), ("nowhere", ".done")):
        page.goto(root + name)
        page.wait_for_selector(wanted)
        yield name


def test_every_text_of_every_page_stands_out_in_both_themes(visit, server):
    visitor = visit("contrast")
    for place in places(visitor, server):
        for theme in THEMES:
            visitor.page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            texts = visitor.page.evaluate(TEXTS)
            assert len(texts) > 3, place
            weak = [(words, round(ratio, 2)) for words, ratio in texts if ratio < 4.5]
            assert weak == [], (place, theme)


def test_a_screen_reader_is_told_the_role_and_the_name_of_every_control(visit, server):
    visitor = visit("reader")
    session = visitor.page.context.new_cdp_session(visitor.page)
    seen = {}
    for place in places(visitor, server):
        nodes = session.send("Accessibility.getFullAXTree")["nodes"]
        told = [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"] and "role" in node
        ]
        assert [role for role, name in told if role in NAMED and not name.strip()] == [], place
        seen[place] = set(told)
    roles = {role for role, _ in seen["pair"]}
    assert {"banner", "main", "contentinfo", "heading", "progressbar", "slider"} <= roles
    for name in ("Left is better", "Right is better", "Equal", "slightly left", "Undo", "Skip", "Pause"):
        assert any(role == "button" and name in said for role, said in seen["pair"]), name
    assert ("dialog", "Keys") in seen["help"]
    assert ("dialog", "Who is labelling?") in seen["name"]
    assert ("progressbar", "reader: 1 of 28") in seen["admin"]


@pytest.mark.slow
def test_tab_reaches_every_control_and_shows_where_it_is(visit, server):
    visitor = visit("tabs")
    for place in places(visitor, server):
        controls = visitor.page.evaluate(f"() => ({FOCUSABLE})().length")
        reached = set()
        for _ in range(2 * controls + 2):
            visitor.page.keyboard.press("Tab")
            at, width, style = visitor.page.evaluate(
                f"""() => {{
                  const e = document.activeElement, style = getComputedStyle(e);
                  return [({FOCUSABLE})().indexOf(e), parseFloat(style.outlineWidth), style.outlineStyle];
                }}"""
            )
            if at >= 0:
                reached.add(at)
                assert (width >= 2, style) == (True, "solid"), (place, at)
        assert len(reached) == controls, place


@pytest.mark.slow
def test_everything_is_done_without_a_mouse(visit, server):
    visitor = visit("keys only")
    page = visitor.page

    def tab_to(wanted):
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", wanted):
                return
        raise AssertionError(wanted)

    tab_to("#theme")
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.keyboard.press("Enter")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    tab_to("#help")
    page.keyboard.press("Enter")
    assert page.is_visible("#keys")
    page.keyboard.press("Escape")
    assert page.is_hidden("#keys")
    shown = visitor.ready()
    tab_to(".choice.equal")
    page.keyboard.press("Enter")
    visitor.another_than(shown)
    visitor.ready()
    tab_to("#undo")
    page.keyboard.press("Enter")
    visitor.until("() => robopref.state.turn.done === 0 && !robopref.state.busy")
    visitor.ready()
    for link, wanted in (
        ("a[href='/quality']", "#notice:not([hidden]), #facts dd"),
        ("a[href='/admin']", "#people"),
        ("a[href='/']", "#work"),
    ):
        tab_to(link)
        page.keyboard.press("Enter")
        page.wait_for_selector(wanted)


@pytest.mark.slow
def test_a_finger_meets_nothing_smaller_than_44_pixels_on_a_tablet(visit, server):
    visitor = visit("finger", viewport={"width": 820, "height": 1180}, has_touch=True, is_mobile=True)
    for place in places(visitor, server):
        sizes = visitor.page.evaluate(
            f"""() => ({FOCUSABLE})().filter((e) => e.matches("button, a, input")).map((e) => {{
              const box = e.getBoundingClientRect();
              return [e.id || e.textContent.trim(), box.width, box.height];
            }})"""
        )
        assert [size for size in sizes if min(size[1:]) < 43.99] == [], place
        assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 820, place


@pytest.mark.slow
def test_nothing_moves_on_its_own_but_the_clips_where_less_motion_is_wished(visit):
    visitor = visit("calm")
    moving = """() => {
      document.getElementById("left").dataset.state = "making";
      document.body.dataset.chosen = "left";
      return document.getAnimations().length;
    }"""
    assert visitor.page.evaluate(moving) > 0
    visitor.page.emulate_media(reduced_motion="reduce")
    assert visitor.page.evaluate(moving) == 0


@pytest.mark.slow
def test_a_screen_reader_hears_what_was_stored_and_what_comes(visit):
    visitor = visit("listener")
    said = "() => document.getElementById('said').textContent"
    assert visitor.page.get_attribute("#said", "aria-live") == "polite"
    visitor.press("ArrowLeft")
    assert visitor.page.evaluate(said) == "Left. Stored. Now 2 of 28."
    visitor.press("z")
    assert visitor.page.evaluate(said) == "Taken back. Now 1 of 28."

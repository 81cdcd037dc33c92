"""A person at a real browser: headless Chromium."""

import time

PATIENCE_MS = 60_000


class Visitor:
    """A page, and what went wrong in it."""

    def __init__(self, browser, url, **context):
        self.page = browser.new_page(**context)
        self.page.set_default_timeout(PATIENCE_MS)
        self.problems, self.requests = [], []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda said: said.type == "error" and self.problems.append(said.text))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)

    def until(self, condition, argument=None):
        """Wait for a condition; Playwright's own waiting evaluates text, which the page's policy forbids."""
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while not self.page.evaluate(condition, argument):
            assert time.monotonic() < deadline, condition
            self.page.wait_for_timeout(30)

    def another_than(self, shown):
        """Wait for another pair than this, or the end."""
        self.until("shown => robopref.state.turn.question?.id !== shown && !robopref.state.busy", shown)

    def ready(self):
        self.until("() => Boolean(window.robopref?.state.ready && !robopref.state.busy)")
        self.until(
            "() => performance.now() - robopref.state.shownAt > 260"
        )  # sooner, a key is not meant for it
        return self.page.evaluate("robopref.state.turn.question.id")

    def press(self, key):
        """Press a key that answers; return once the next pair is shown."""
        shown = self.ready()
        self.page.keyboard.press(key)
        self.another_than(shown)
        return shown

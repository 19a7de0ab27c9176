"""The page in Chromium: three turns with thoughts, stop, an error, and what a reply may not do."""

import json
import os
import shutil
import time

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")
pytest.importorskip("prometheus_client")
playwright = pytest.importorskip("playwright.sync_api")

from serving import chatty, serving, wait  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: <think>\n{% endif %}"
)
WIDTHS = {390: 844, 1280: 800}
expect = playwright.expect


@pytest.fixture(scope="module")
def server(data_dir, tmp_path_factory):
    folder = data_dir / "stories260k" / "hf"
    copy = chatty(folder, tmp_path_factory.mktemp("page") / "hf", TEMPLATE)
    with serving(model=str(copy), max_tokens=90) as one:
        yield one


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    with playwright.sync_playwright() as p:
        args = ["--no-sandbox", "--no-proxy-server"]
        one = p.chromium.launch(executable_path=CHROMIUM, args=args)
        yield one
        one.close()


@pytest.fixture
def page(browser, server):
    """open(width, scheme, height): a page of which no console error is left unsaid."""
    made, errors = [], []

    def open(width=1280, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": WIDTHS[width]}, color_scheme=scheme
        )
        one = context.new_page()
        one.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        one.on("pageerror", lambda e: errors.append(str(e)))
        one.goto(server.url)
        expect(one.locator("#name")).to_have_text("tested")
        made.append(context)
        return one

    open.errors = errors
    yield open
    for context in made:
        context.close()


def say(page, text: str) -> None:
    page.fill("#said", text)
    page.keyboard.press("Enter")


def shot(page, name: str) -> None:
    if folder := os.environ.get("R1JAX_SHOTS"):
        page.screenshot(path=f"{folder}/{name}.png")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_three_turns_with_thoughts(page, server, width, scheme):
    one = page(width, scheme)
    shot(one, f"empty-{width}-{scheme}")
    one.fill("#budget", "24")
    for turn, text in enumerate(
        ["Tell me of a dog and its ball.", "And then?", "How did it end?"], 1
    ):
        say(one, text)
        expect(one.locator(".note")).to_have_count(turn)
        expect(one.locator(".note").last).to_contain_text("tokens a second", timeout=30_000)
        expect(one.locator("#send")).to_have_text("Send")
        summary = one.locator("summary").last
        expect(summary).to_contain_text("Thought for")
        expect(one.locator(".thought").last).not_to_be_visible()  # folded
        answer, note = (one.locator(of).last.inner_text() for of in (".text", ".note"))
        assert answer or "ended without an answer" in note
    one.locator("summary").last.click()
    expect(one.locator(".thought").last).to_be_visible()
    expect(one.locator(".note").last).to_contain_text("from the cache")
    shot(one, f"chat-{width}-{scheme}")
    assert one.evaluate("() => document.documentElement.scrollWidth") <= width
    assert page.errors == []
    one.click("#new")
    expect(one.locator(".reply")).to_have_count(0)


def test_stop(page, server, monkeypatch):
    engine = server.app.worker.engine
    step = engine.step
    monkeypatch.setattr(engine, "step", lambda steps: (time.sleep(0.05), step(1))[1])
    one = page()
    for how in ("click", "Escape"):
        say(one, "Tell me a long story.")
        expect(one.locator(".thought.now")).not_to_be_empty(timeout=30_000)
        expect(one.locator("#send")).to_have_text("Stop")
        one.click("#send") if how == "click" else one.keyboard.press("Escape")
        expect(one.locator(".note").last).to_have_text("stopped")
        wait(lambda: not engine.busy)
    assert page.errors == []


def test_an_error_is_said(page, server):
    one = page(390)
    say(one, "story " * 700)
    expect(one.locator(".bad")).to_contain_text("context is 512 tokens", timeout=30_000)
    shot(one, "error-390")
    one.route("**/v1/chat/completions", lambda route: route.abort())
    say(one, "Again")
    expect(one.locator(".bad").last).to_have_text("the connection to the server was lost")


def test_what_a_reply_holds_is_text(page, server):
    one = page()
    evil = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"
    chunk = {"choices": [{"index": 0, "delta": {"reasoning_content": evil}, "finish_reason": None}]}
    last = {"choices": [{"index": 0, "delta": {"content": evil}, "finish_reason": "stop"}]}
    body = "".join(f"data: {json.dumps(c)}\n\n" for c in (chunk, last)) + "data: [DONE]\n\n"
    one.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=200, content_type="text/event-stream", body=body),
    )
    say(one, evil)
    expect(one.locator(".text")).to_have_text(evil)
    expect(one.locator(".thought")).to_have_text(evil)
    expect(one.locator(".user")).to_have_text(evil)
    assert one.locator("#talk img, #talk script").count() == 0 and one.title() == "tested"
    assert page.errors == []

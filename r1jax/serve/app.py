"""The routes."""

import asyncio
import base64
import contextlib
import hashlib
import importlib.resources
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.metadata import version
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from r1jax.checks import InputError
from r1jax.serve import asks, forms
from r1jax.serve.errors import Refused, bad
from r1jax.serve.fields import Fields, read_json
from r1jax.serve.metrics import CONTENT_TYPE, Metrics
from r1jax.serve.replies import Replies
from r1jax.serve.served import Limits, Served, check_strict
from r1jax.serve.worker import Worker

READING = 30.0  # seconds that a body may take to come
DEFAULTS = Limits()
Ask = TypeVar("Ask", asks.Chat, asks.Text)
LOG = logging.getLogger("r1jax.serve")
_LOOPBACK = re.compile(r"(localhost|127(?:\.\d+){3}|\[::1\])(:\d+)?", re.IGNORECASE)


class App:
    """loopback: only requests that name this machine are answered, so that no page of another site
    can reach it under a name of its own."""

    def __init__(
        self,
        served: Served,
        limits: Limits = DEFAULTS,
        prefix: str = "r1jax",
        loopback: bool = False,
    ):
        self.served, self.limits, self.loopback = served, limits, loopback
        self.worker = Worker(served.engine, limits.queue)
        self.metrics = Metrics(served.name, prefix)
        self.fingerprint = "r1jax_" + hashlib.sha256(served.name.encode()).hexdigest()[:10]
        self._page, self._policy = page()

    def asgi(self) -> Starlette:
        post, get = ["POST"], ["GET"]
        routes = [
            Route("/v1/chat/completions", self._guarded(self.chat), methods=post),
            Route("/v1/completions", self._guarded(self.text), methods=post),
            Route("/v1/models", self._guarded(self.models), methods=get),
            Route("/v1/models/{name:path}", self._guarded(self.one_model), methods=get),
            Route("/tokenize", self._guarded(self.tokenize), methods=post),
            Route("/detokenize", self._guarded(self.detokenize), methods=post),
            Route("/metrics", self._open(self.tell_metrics), methods=get),
            Route("/health", self._open(self.health), methods=get),
            Route("/version", self._open(self.version), methods=get),
            Route("/", self._open(self.tell_page), methods=get),
        ]
        return Starlette(
            routes=routes,
            lifespan=self._lifespan,
            exception_handlers={HTTPException: self._http_error, Exception: self._bug},
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        self.worker.start()
        yield
        await self.worker.stop()

    # Around every route.

    def _open(self, route: Callable[[Request], Awaitable[Any]], guarded: bool = False):
        async def answer(request: Request) -> Any:
            try:
                self._check_host(request)
                if guarded:
                    self._check_key(request)
                return await route(request)
            except Refused as refused:
                return self._refusal(refused)

        return answer

    def _guarded(self, route: Callable[[Request], Awaitable[Any]]):
        return self._open(route, guarded=True)

    def _refusal(self, refused: Refused) -> Response:
        self.metrics.refused(refused.status)
        headers = {}
        if refused.retry_after is not None:
            headers["Retry-After"] = str(refused.retry_after)
        if refused.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return reply(refused.body(), refused.status, headers)

    async def _http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        said = f"{request.method} {request.url.path}: {error.detail}"
        return self._refusal(Refused(error.status_code, said[:200]))

    async def _bug(self, _request: Request, _error: Exception) -> Response:
        return self._refusal(Refused(500, "the server failed on this request"))

    def _check_host(self, request: Request) -> None:
        host = request.headers.get("host", "")
        if self.loopback and not _LOOPBACK.fullmatch(host):
            raise Refused(421, "this server answers to localhost only", "Host")

    def _check_key(self, request: Request) -> None:
        if not self.served.manner.key:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not self.served.is_key(given.strip().encode("latin-1")):
            raise Refused(401, "a wrong API key, or none", code="invalid_api_key")

    async def _body(self, request: Request) -> dict[str, Any]:
        """The JSON object of a request, no larger than allowed and no slower to come."""
        kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
        if kind.lower() != "application/json":
            raise Refused(415, f"Content-Type must be application/json, got {kind[:60]!r}")
        most, body = self.limits.body, bytearray()
        length = request.headers.get("content-length", "0")
        large = Refused(413, f"the body is larger than {most:,} bytes")
        if length.isdigit() and len(length) < 20 and int(length) > most:
            raise large
        try:
            async with asyncio.timeout(READING):
                async for part in request.stream():
                    body += part
                    if len(body) > most:
                        raise large
        except TimeoutError:
            raise Refused(408, "the body took too long to come") from None
        return read_json(bytes(body))

    async def _ask(self, request: Request, read: Callable[[dict[str, Any]], Ask]) -> Ask:
        values = await self._body(request)
        if self.served.manner.strict:
            check_strict(values)
        ask = read(values)
        self._check_model(ask.model)
        return ask

    def _check_model(self, name: str | None) -> None:
        if not self.worker.alive:
            raise Refused(503, "the engine is not running", code="overloaded")
        if not self.served.check_model(name):
            said = f"the model {name!r:.80} is not here; {self.served.name!r} is"
            raise Refused(404, said, "model", "model_not_found")

    # Routes.

    async def chat(self, request: Request) -> Any:
        ask = await self._ask(request, asks.chat)
        served, manner = self.served, self.served.manner
        wanted = served.chat(ask)
        if manner.log_prompts:
            LOG.info("chat: %r", wanted[0].prompt)
        d = ask.drawing
        count = len(wanted[0].request.prompt)
        replies = self._replies(wanted, count, d.tops, ask.calls != "none")
        reasoning = ("reasoning_content",) if manner.strict else manner.reasoning
        form = forms.ChatForm(
            served.name, self.fingerprint, d.n, reasoning, tops=d.tops is not None
        )
        replies.submit()
        self._counted(count)
        if d.stream:
            more = {"usage": None} if d.stream_usage else {}

            async def chunks() -> AsyncIterator[bytes]:
                yield form.begin(d.n, **more)
                async for piece in replies.pieces():
                    yield forms.ALIVE if piece is None else form.pieces(piece, **more)
                self._finished(replies)
                if d.stream_usage:
                    yield form.chunk([], usage=forms.usage(replies.usage))

            return Stream(chunks(), replies, self)
        async with _unless_gone(request, replies):
            async for piece in replies.pieces():
                if piece is not None:
                    form.add(piece)
        self._finished(replies)
        return reply(form.whole(replies.usage, replies.switches))

    async def text(self, request: Request) -> Any:
        ask = await self._ask(request, asks.text)
        served, manner = self.served, self.served.manner
        prompts, wanted = served.text(ask)
        if manner.log_prompts:
            LOG.info("completions: %r", ask.prompts)
        d = ask.drawing
        replies = self._replies(wanted, sum(map(len, prompts)), d.tops, False)
        form = forms.TextForm(served.name, self.fingerprint, d.tops is not None, served.tokenizer)
        if wanted:
            replies.submit()
        try:
            scored: Any = [None] * len(prompts)
            if ask.echo and d.tops is not None:
                scored = await self.worker.score(prompts)
        except BaseException:
            replies.cancel()
            raise
        self._counted(sum(map(len, prompts)))
        echoes = []  # (text, entries) of each choice
        for ids, tops in zip(prompts, scored, strict=True):
            text = served.tokenizer.decode(ids, skip_special_tokens=True) if ask.echo else ""
            for _ in range(d.n):
                entries = form.echo(ids, tops, d.tops or 0) if ask.echo else []
                echoes.append((text, entries))
        if d.stream:
            more = {"usage": None} if d.stream_usage else {}

            async def chunks() -> AsyncIterator[bytes]:
                for i, (text, entries) in enumerate(echoes):
                    finish = None if wanted else "length"
                    if ask.echo:
                        yield form.chunk([form.choice(i, text, entries, finish)], **more)
                async for piece in replies.pieces():
                    if piece is None:
                        yield forms.ALIVE
                        continue
                    one = form.choice(piece.index, piece.text, piece.tops, piece.finish or None)
                    yield form.chunk([one], **more)
                self._finished(replies)
                if d.stream_usage:
                    yield form.chunk([], usage=forms.usage(replies.usage))

            return Stream(chunks(), replies, self)
        texts = [[text] for text, _ in echoes]
        told = [list(entries) for _, entries in echoes]
        ends = ["length"] * len(echoes)
        async with _unless_gone(request, replies):
            async for piece in replies.pieces():
                if piece is not None:
                    texts[piece.index].append(piece.text)
                    told[piece.index] += piece.tops
                    ends[piece.index] = piece.finish or ends[piece.index]
        self._finished(replies)
        choices = [
            form.choice(i, "".join(parts), entries, end)
            for i, (parts, entries, end) in enumerate(zip(texts, told, ends, strict=True))
        ]
        return reply(form.whole(choices, replies.usage))

    def _replies(self, wanted, prompt_tokens: int, tops: int | None, calls: bool) -> Replies:
        return Replies(
            self.worker,
            self.metrics,
            self.served.tokenizer,
            wanted,
            prompt_tokens,
            tops,
            calls,
            self.limits.deadline,
        )

    def _counted(self, prompt_tokens: int) -> None:
        self.metrics.prompt_tokens.inc(prompt_tokens)
        self.metrics.prefix_queries.inc(prompt_tokens)

    def _finished(self, replies: Replies) -> None:
        self.metrics.prefix_hits.inc(replies.usage.cached)

    def _about(self) -> dict[str, Any]:
        s = self.served
        return {
            "id": s.name,
            "object": "model",
            "created": s.created,
            "owned_by": "r1jax",
            "max_model_len": s.context,
            "conversation": s.conversation.form,
            "turns": s.turns,
        }

    async def models(self, _request: Request) -> Response:
        return reply({"object": "list", "data": [self._about()]})

    async def one_model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name != self.served.name:
            raise Refused(404, f"no model {name[:80]!r}", "model", "model_not_found")
        return reply(self._about())

    async def tokenize(self, request: Request) -> Response:
        f = Fields(await self._body(request))
        prompt = f.text("prompt")
        if prompt is None:
            messages = f.array("messages")
            if messages is None:
                raise bad("prompt", "prompt or messages is missing")
            ask = asks.chat({"messages": messages})
            prompt, param = self.served.messages_prompt(ask.messages), "messages"
            ids = self.served.encode(prompt, param)
        elif f.any("add_special_tokens") is False:
            try:
                ids = self.served.tokenizer.encode(prompt)
            except InputError as error:
                raise bad("prompt", str(error)) from None
        else:
            ids = self.served.encode(prompt, "prompt")
        return reply({"tokens": ids, "count": len(ids), "max_model_len": self.served.context})

    async def detokenize(self, request: Request) -> Response:
        f = Fields(await self._body(request))
        given = f.array("tokens")
        if given is None or not all(type(i) is int for i in given):
            raise bad("tokens", "tokens must be an array of token ids")
        ids = self.served.check_ids(given, "tokens") if given else []
        return reply({"prompt": self.served.tokenizer.decode(ids)})

    async def tell_metrics(self, _request: Request) -> Response:
        self.metrics.running.set(self.worker.running)
        self.metrics.waiting.set(self.worker.waiting)
        self.metrics.drafted(self.worker.engine.stats)
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def health(self, _request: Request) -> Response:
        if not self.worker.alive:
            raise Refused(503, "the engine is not running", code="overloaded")
        return reply({"status": "ok"})

    async def version(self, _request: Request) -> Response:
        return reply({"version": version("r1jax")})

    async def tell_page(self, _request: Request) -> Response:
        headers = {
            "Content-Security-Policy": self._policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        return Response(self._page, media_type="text/html", headers=headers)


def page() -> tuple[str, str]:
    """(the page, a policy that lets nothing run or load but what is in it)"""
    text = importlib.resources.files("r1jax").joinpath("assets/chat.html").read_text("utf-8")

    def hashes(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in found)
        return " ".join(f"'sha256-{d}'" for d in digests)

    policy = (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return text, policy


def reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(forms.dumps(value), status, headers, "application/json")


class Gone(Exception):
    """The client has left."""


@contextlib.asynccontextmanager
async def _unless_gone(request: Request, replies: Replies) -> AsyncIterator[None]:
    """Within, a client that leaves ends what is drawn for it, and so does any error."""
    task = asyncio.current_task()
    assert task is not None
    left = False

    async def watch() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not left:
            raise
        task.uncancel()
        raise Refused(499, "the client has left") from None
    finally:
        watcher.cancel()
        replies.cancel()


class Stream:
    """Server-sent events, as an ASGI application. A client that leaves, or that leaves unread what
    it is sent, ends what is drawn for it. An error after the first byte is told as an event."""

    def __init__(self, chunks: AsyncIterator[bytes], replies: Replies, app: App):
        self._chunks, self._replies, self._app = chunks, replies, app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        watch = asyncio.create_task(_disconnected(receive))
        write = asyncio.create_task(self._write(send))
        try:
            await asyncio.wait({watch, write}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (watch, write):
                task.cancel()
            self._replies.cancel()
            done = await asyncio.gather(watch, write, return_exceptions=True)
        failed = done[1]
        if isinstance(failed, Exception) and not isinstance(failed, (OSError, TimeoutError)):
            raise failed

    async def _write(self, send: Any) -> None:
        async def put(body: bytes, more: bool = True) -> None:
            async with asyncio.timeout(self._app.limits.stalled):
                await send({"type": "http.response.body", "body": body, "more_body": more})

        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async for chunk in self._chunks:
                await put(chunk)
            await put(forms.DONE, more=False)
        except Refused as refused:
            self._app.metrics.refused(refused.status)
            await put(forms.event(refused.body()), more=False)


async def _disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

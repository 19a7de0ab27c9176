"""A server that speaks OpenAI's protocol, in a thread: the same model has the same figures."""

import collections
import http.server
import json
import threading

import pytest
from test_bad_input import error_of  # noqa: F401

import r1jax
from experiments import evaluate
from r1jax.data.chat import split_thinking
from r1jax.evaluation.local import Ask
from r1jax.evaluation.protocol import Protocol
from r1jax.evaluation.remote import Remote, with_thought

FLAGS = ("--temperature=0", "--limit=8", "--k=1", "--max-tokens=64", "--directives=false")


class Server(http.server.ThreadingHTTPServer):
    """Answers by `reply(prompt, max_tokens)`, once for each prompt however it is asked. fails: the
    status of a request by its number, for those that fail."""

    daemon_threads = True

    def __init__(self, reply, fails=lambda number: 0):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.fails = reply, fails
        self.about = {}
        self.lock, self.asked, self.seen = threading.Lock(), [], collections.Counter()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        if self.path != "/v1/models":
            return self._send(404, {"error": {"message": "no such page"}})
        self._send(200, {"data": [{"id": "small"} | self.server.about]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.asked.append((self.path, body, self.headers.get("Authorization")))
            status = server.fails(len(server.asked))
            if status:
                return self._send(status, {"error": {"message": "not now"}})
            chat = self.path.endswith("/chat/completions")
            prompt = body["messages"][-1]["content"] if chat else body["prompt"]
            text, finish = server.reply(prompt, body.get("max_tokens"))
        choice = {"text": text, "finish_reason": finish}
        if chat:
            thinking, answer = split_thinking(text)
            message = {"role": "assistant", "content": answer, "reasoning_content": thinking}
            choice = {"message": message, "finish_reason": finish}
        usage = {"completion_tokens": len(text.split())}  # less <think>, and the one that ends it
        self._send(200, {"choices": [choice], "usage": usage})

    def _send(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def serve():
    """serve(reply, fails): a server that runs until the test ends."""
    running = []

    def serve(*args):
        server = Server(*args)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return server

    yield serve
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def model():
    """(prompt, max_tokens) -> the shipped model's greedy reply, drawn by its functions."""
    opened = r1jax.open_model("embedded")
    known = {}

    def reply(prompt, max_tokens):
        if prompt not in known:
            known[prompt] = opened.generate([prompt], temperature=0, max_tokens=max_tokens)[0]
        return known[prompt], "stop"

    return reply


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same questions, asked of the weights."""
    out = tmp_path_factory.mktemp("folder") / "out"
    evaluate.main([*FLAGS, f"--out={out}"])
    return out


def found(out):
    grades = [json.loads(line) for line in (out / "grades.jsonl").read_text().splitlines()]
    return {g["id"]: (g["outcome"], g["answer"]) for g in grades}


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_url_and_a_folder_have_the_same_greedy_figures(api, serve, model, folder, tmp_path):
    """Also where every third request fails for a while."""
    busy = iter([429, 500, 503] * 3)
    server = serve(model, lambda number: next(busy, 0) if number % 3 == 0 else 0)
    out = tmp_path / "out"
    flags = [f"--model={server.url}", f"--out={out}", f"--api={api}", "--conversation=plain"]
    if api == "chat":
        flags[-1] = "--conversation=auto"
    evaluate.main([*FLAGS, *flags])
    assert found(out) == found(folder) and len(found(out)) == 8
    of_url, of_folder = (
        json.loads((o / "results.json").read_text())["benchmarks"]["countdown"]
        for o in (out, folder)
    )
    same = ("pass@1", "se_questions", "pass@k", "truncated", "unparseable", "outcomes", "tokens")
    assert {n: of_url[n] for n in same} == {n: of_folder[n] for n in same}
    paths = {path for path, *_ in server.asked}
    assert paths == {"/v1/chat/completions" if api == "chat" else "/v1/completions"}
    body = server.asked[0][1]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("small", 0.0, 64)


def test_a_server_gives_up(serve, model, tmp_path, error_of, monkeypatch):  # noqa: F811
    """The key is sent, and no reply is asked for twice."""
    monkeypatch.setenv("SECRET", "abc")
    server = serve(model, lambda number: 400 if number == 5 else 0)
    out = tmp_path / "out"
    flags = (*FLAGS, f"--model={server.url}", f"--out={out}", "--concurrency=1")
    error = error_of(*flags, "--api-key-env=SECRET", main=evaluate.main)
    assert "/chat/completions refuses: 400 Bad Request" in error and "not now" in error
    assert error.endswith("; 4 replies of this run are kept\n")
    assert len((out / "replies.jsonl").read_text().splitlines()) == 4
    evaluate.main(list(flags))
    asked = collections.Counter(body["messages"][0]["content"] for _, body, _ in server.asked)
    assert len(server.asked) == 9 and sorted(asked.values()) == [1] * 7 + [2]
    assert {key for *_, key in server.asked[:5]} == {"Bearer abc"} and server.asked[5][2] is None
    assert len(found(out)) == 8


def remote(server, **changes):
    return Remote(server.url, Protocol(k=1, **changes), pause_s=0.01, retries=2)


def test_what_is_asked_and_what_is_read(serve):
    server = serve(lambda prompt, max_tokens: ("<think>\na\n</think>\n\nb", "stop"))
    replies = {}
    asks = [Ask("Q1", 5, 0), Ask("Q1", 5, 1), Ask("Q2", 6, 0)]
    remote(server, system="Be brief.").draw(asks, replies.__setitem__)
    assert {r.completion for r in replies.values()} == {"<think>\na\n</think>\n\n\n\nb"}
    assert sorted(replies) == [0, 1, 2]
    first = server.asked[0][1]
    assert first["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (first["temperature"], first["top_p"], first["max_tokens"]) == (0.6, 0.95, 32_768)
    assert len({body["seed"] for _, body, _ in server.asked}) == 3


def test_a_small_context_ends_a_reply_by_itself(serve):
    """More tokens than it has would be refused."""
    server = serve(lambda prompt, max_tokens: ("a", "length"))
    server.about = {"max_model_len": 256}
    for most in (200, 32_768):
        remote(server, max_tokens=most).draw([Ask("Q", 1, 0)], lambda i, reply: None)
    assert [body.get("max_tokens") for _, body, _ in server.asked] == [200, None]


def test_what_is_refused_for_good_is_not_asked_again(serve):
    server = serve(lambda *_: ("", "stop"), lambda number: 400)
    with pytest.raises(Exception, match=r"refuses: 400 Bad Request: .*not now.*") as raised:
        remote(server).draw([Ask("Q", 1, 0)], lambda i, reply: None)
    assert len(server.asked) == 1 and "same command" not in str(raised.value)
    with pytest.raises(Exception, match=r"404 Not Found: .*; --model is mostly .*/v1$"):
        Remote(server.url.removesuffix("/v1"), Protocol())


def test_a_server_that_never_answers_is_one_line(serve):
    server = serve(lambda *_: ("", "stop"), lambda number: 503)
    with pytest.raises(Exception, match=r"503 Service Unavailable: .*not now.*, tried 3 times"):
        remote(server).draw([Ask("Q", 1, 0)], lambda i, reply: None)
    assert len(server.asked) == 3
    with pytest.raises(Exception, match=r"http://127.0.0.1:9/v1/models: .*, tried 2 times"):
        Remote("http://127.0.0.1:9/v1", Protocol(), retries=1, pause_s=0.01)


def test_a_cut_thought_has_no_answer():
    assert with_thought("", "so", cut=True) == "<think>\nso"
    assert with_thought("", "so", cut=False) == "<think>\nso\n</think>\n\n"
    assert with_thought("so</think>7", "", cut=False) == "<think>\nso</think>7"
    assert with_thought("<think>so</think>7", "", cut=False) == "<think>so</think>7"
    assert with_thought("7", "", cut=False) == "7"


REPLIES = {
    "Write.": ("<think>hm, so</think>never a pause", "stop"),  # no comma
    "Talk.": ("<think>hm</think>yes, of course", "stop"),
    "Add.": ("<think>hm</think>```python\nprint(sum(map(int, input().split())))\n```", "stop"),
    "Multiply.": ("<think>hm</think>```python\nprint(0)\n```", "stop"),
    "Which?": ("<think>hm</think>Answer: (no idea)", "stop"),
    "What?": ("<think>hm", "length"),
}


def test_sets_with_figures_of_their_own(serve, tmp_path):
    """IFEval's four shares, a rating, subjects; what was cut and what cannot be read."""

    def canned(prompt, max_tokens):
        return next(reply for begins, reply in REPLIES.items() if prompt.startswith(begins))

    def write(name, *rows):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    both = ["punctuation:no_comma", "startend:quotation"]
    write(
        "ifeval",
        {"key": 1, "prompt": "Write.", "instruction_id_list": both[:1], "kwargs": [{}]},
        {
            "key": 2,
            "prompt": "Talk.",
            "instruction_id_list": both,
            "kwargs": [{}] * 2,
        },
    )
    cases = {"official_tests": [{"input": "2 3", "output": "5"}]}
    rated = [("Add.", 1000), ("Multiply.", 1400)]
    write("codeforces", *({"id": d, "description": d, "rating": r} | cases for d, r in rated))
    mcq = {"choices": ["a", "b"], "answer": 0}
    write(
        "mmlu",
        {"question": "Which?", "subject": "law"} | mcq,
        {"question": "What?", "subject": "art"} | mcq,
    )
    out = tmp_path / "out"
    flags = [f"--model={serve(canned).url}", f"--data={tmp_path}", f"--out={out}", "--k=2"]
    evaluate.main([*flags, "--i-know-that-model-code-runs-unsandboxed"])
    found = json.loads((out / "results.json").read_text())["benchmarks"]
    assert found["ifeval"]["instructions"] == {
        "prompt_strict": 0.5,
        "prompt_loose": 0.5,
        "instruction_strict": pytest.approx(1 / 3),
        "instruction_loose": pytest.approx(1 / 3),
    }
    assert found["ifeval"]["pass@1"] == 0.5 and "cons@k" not in found["ifeval"]
    rating = found["codeforces"]["rating"]
    assert abs(rating["value"] - 1200) < 0.02 and rating["problems"] == 2
    assert rating["low"] < 1200 < rating["high"]
    mmlu = found["mmlu"]
    assert (mmlu["truncated"], mmlu["unparseable"], mmlu["pass@1"]) == (0.5, 0.5, 0)
    assert mmlu["subjects"].keys() == {"law", "art"}
    assert mmlu["cons@k"]["2"] == {"value": 0, "ties": 0}
    assert mmlu["reported"][0]["value"] == 90.8

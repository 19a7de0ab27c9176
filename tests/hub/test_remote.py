"""Models by their ids on the Hub: a server on this machine speaks the routes that the library asks
for; nothing else is asked."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import jax
import numpy as np
import pytest
import tokenizers
from checkpoints import QWEN2, qwen2_shapes, random_values, write
from huggingface_hub import constants

from experiments import sft
from r1jax import hub
from r1jax.checks import InputError
from r1jax.config_file import load_config, save_config
from r1jax.hub.remote import fetch, is_hub_id
from r1jax.models import first_weights, from_model, open_model
from r1jax.presets import RUNS
from r1jax.sharding import make_mesh

COMMIT, LATER = "c" * 40, "d" * 40


class Hub(ThreadingHTTPServer):
    """folders: what it has, by repository. heads: the newest commit of each. refuses: the status
    and the X-Error-Code of a repository's every answer. asked: how often for each path."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answer)
        self.folders: dict[str, Path] = {}
        self.heads: dict[str, str] = {}
        self.refuses: dict[str, tuple[int, str]] = {}
        self.asked: Counter[str] = Counter()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def add(self, repo: str, folder: Path) -> None:
        self.folders[repo], self.heads[repo] = folder, COMMIT

    def downloads(self) -> list[str]:
        return sorted(path.rsplit("/", 1)[1] for path in self.asked if path.startswith("GET /tiny"))


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.asked[f"{self.command} {path}"] += 1
        found = re.fullmatch(r"(?:/api/models)?/([\w-]+/[\w-]+)(?:/(\w+)/(\w+)(?:/(.+))?)?", path)
        repo, kind, revision, file = found.groups() if found else ("", "", "", "")
        refusal = self.server.refuses.get(repo) or (
            None if repo in self.server.folders else (404, "RepoNotFound")
        )
        if refusal is None and revision not in (None, "main", COMMIT, self.server.heads[repo]):
            refusal = 404, "RevisionNotFound"
        if refusal:
            return self._send(refusal[0], b"", {"X-Error-Code": refusal[1]})
        folder, commit = self.server.folders[repo], self.server.heads[repo]
        if kind == "resolve":
            data = (folder / file).read_bytes()
            tag = hashlib.sha1(data).hexdigest()
            return self._send(200, data, {"ETag": f'"{tag}"', "X-Repo-Commit": revision})
        if kind == "tree":
            names = [p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file()]
            value = [
                {"type": "file", "path": str(n), "size": (folder / n).stat().st_size, "oid": "0"}
                for n in names
            ]
        else:
            sha = commit if revision in (None, "main") else revision
            value = {"id": repo, "sha": sha, "siblings": []}
        return self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A checkpoint with a tokenizer, and files that nobody here reads."""
    folder = tmp_path_factory.mktemp("hub") / "qwen2"
    write(folder, QWEN2, random_values(qwen2_shapes()), files=2)
    words = {word: i for i, word in enumerate(["<unk>", "</s>", "a", "b"])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["<unk>", "</s>"])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "original").mkdir()
    for unread in (
        "README.md",
        "pytorch_model.bin",
        "modeling.py",
        "consolidated.safetensors",
        "original/model.safetensors",
    ):
        (folder / unread).write_bytes(b"not read")
    return folder


@pytest.fixture
def server(model, tmp_path, monkeypatch):
    """With the library told to ask it, as by the variables that it reads when it is imported."""
    with Hub() as hub_server:
        threading.Thread(target=hub_server.serve_forever, args=(0.01,), daemon=True).start()
        hub_server.add("tiny/qwen2", model)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        ask(monkeypatch, hub_server.url)
        yield hub_server
        hub_server.shutdown()
    huggingface_hub.close_session()


def ask(monkeypatch, url):
    huggingface_hub.close_session()
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def refusal(name):
    with pytest.raises(InputError) as error:
        open_model(name)
    assert str(error.value).startswith(name) and "\n" not in str(error.value)
    return str(error.value)


def test_what_is_an_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in ("deepseek-ai/DeepSeek-R1", "Qwen/Qwen2.5-0.5B", "a/b@main", "a/b@refs/pr/1"):
        assert is_hub_id(text), text
    for text in ("", "gpt2", "a/b/c", "/a/b", "/absent", "./a", "../a", "a/..", "a/", "/a", "~/a",
                 "a b/c", "a/b@", "a/b@@c", "a/b\n", "a/b:c", "ä/b"):  # fmt: skip
        assert not is_hub_id(text), text
    (tmp_path / "runs" / "sft").mkdir(parents=True)
    assert is_hub_id("runs/rl") and not is_hub_id("runs/sft")


def test_a_model_with_its_tokenizer(server, model):
    found = open_model("tiny/qwen2")
    assert found.path.name == COMMIT and found.base == f"tiny/qwen2@{COMMIT}"
    assert found.config == hub.read_config(model)
    assert found.tokenizer().encode("b a") == [3, 2]
    mesh = make_mesh("1")
    weights = found.weights(found.config, mesh)
    jax.tree.map(np.testing.assert_array_equal, weights,
                 hub.load_weights(model, found.config, mesh, progress=False))  # fmt: skip
    assert server.downloads() == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ]
    # --base takes ids, too.
    jax.tree.map(
        np.testing.assert_array_equal, weights, first_weights("tiny/qwen2", found.config, mesh)
    )


def test_what_is_cached_is_not_fetched_again(server, monkeypatch):
    first = fetch("tiny/qwen2")
    server.asked.clear()
    assert fetch("tiny/qwen2") == first == fetch("tiny/qwen2@main")
    assert server.downloads() == []
    server.asked.clear()
    assert fetch(f"tiny/qwen2@{COMMIT}") == first and not server.asked
    # Nor is it when the Hub is away.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch("tiny/qwen2") == first == fetch(f"tiny/qwen2@{COMMIT}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    ask(monkeypatch, "http://127.0.0.1:9")
    assert fetch("tiny/qwen2") == first


def test_a_run_goes_on_from_the_commit_that_it_began_from(server, tmp_path):
    cfg = from_model(RUNS["small"](), "tiny/qwen2", resumes=False)
    assert cfg.base == f"tiny/qwen2@{COMMIT}" and Path(cfg.tokenizer).name == COMMIT
    begun = sft.starting_config(["--model=tiny/qwen2"])
    assert begun.base == cfg.base and begun.tokenizer == cfg.tokenizer
    save_config(begun, tmp_path / "config.json")
    server.add("tiny/other", server.folders["tiny/qwen2"])
    server.heads["tiny/qwen2"] = LATER
    assert open_model("tiny/qwen2").base == f"tiny/qwen2@{LATER}"
    resume = ["--resume", f"--out={tmp_path}"]
    computes = dataclasses.replace(cfg.model, dtype="bfloat16", remat="dots")  # by flags, at first
    for same in ("tiny/qwen2", cfg.base):
        for run in (cfg, dataclasses.replace(cfg, model=computes)):
            assert from_model(run, same, resumes=True) == run
        assert sft.starting_config([f"--model={same}", *resume]) == load_config(
            type(begun), tmp_path / "config.json"
        )
    for other in ("tiny/other", "tiny/qwen2@main"):
        said = f"--model={other}: .* began from {cfg.base}"
        with pytest.raises(InputError, match=said):
            from_model(cfg, other, resumes=True)
        with pytest.raises(InputError, match=said):
            sft.starting_config([f"--model={other}", *resume])


def test_the_variables_that_the_library_reads(server, tmp_path):
    code = "from r1jax.hub import fetch; print(fetch('tiny/qwen2'))"
    env = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": server.url}
    env = {k: v for k, v in env.items() if k not in ("HF_HUB_CACHE", "HF_HUB_OFFLINE")}
    env |= {"HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(Path(hub.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, check=True, capture_output=True
    )
    folder = Path(done.stdout.decode().strip())
    assert folder.is_relative_to(tmp_path / "home") and (folder / "config.json").is_file()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, "RepoNotFound"), "{at} does not exist, or is private and HF_TOKEN"),
        ((404, ""), "{at} does not exist, or is private and HF_TOKEN"),
        ((401, ""), "does not exist, or is private and HF_TOKEN is not set to a token"),
        ((401, "GatedRepo"), "access to {at} is restricted (HTTP 401): ask for it on that page"),
        ((403, "GatedRepo"), "access to {at} is restricted (HTTP 403): ask for it on that page"),
        ((403, ""), "access to {at} is restricted (HTTP 403)"),
        ((500, ""), "answered HTTP 500: try again later"),
    ],
)
def test_what_the_hub_refuses(server, answer, said):
    server.refuses["tiny/qwen2"] = answer
    line = refusal("tiny/qwen2")
    assert "tiny/qwen2: no such directory; on the Hub: " in line
    assert said.format(at=f"{server.url}/tiny/qwen2") in line


def test_a_revision_that_is_not_there(server):
    assert "/tiny/qwen2 has no such revision" in refusal("tiny/qwen2@v2")


def test_no_network(server, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    want = f"HF_HUB_OFFLINE is set, and {tmp_path}/cache does not hold all of it"
    assert want in refusal("tiny/qwen2")
    # Part of it is cached.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    shard = fetch("tiny/qwen2") / "model-00002-of-00002.safetensors"
    shard.unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert want in refusal("tiny/qwen2")
    assert want in refusal(f"tiny/qwen2@{COMMIT}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    ask(monkeypatch, "http://127.0.0.1:9")  # nobody listens there
    assert "http://127.0.0.1:9 cannot be reached (ConnectError: " in refusal("tiny/other")


def test_repositories_without_what_a_model_needs(server, model, tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    server.add("tiny/bin", folder)
    assert "the repository has no config.json" in refusal("tiny/bin")
    shutil.copyfile(model / "config.json", folder / "config.json")
    server.add("tiny/onlybin", folder)
    line = refusal("tiny/onlybin")
    assert "no *.safetensors files, only pytorch_model*.bin: load it in Transformers" in line
    assert "save_pretrained(DIR, safe_serialization=True)" in line
    # And a folder of them.
    found = open_model(folder)
    with pytest.raises(InputError, match=r"bin: no \*.safetensors files, only pytorch_model\*.bin"):
        found.weights(found.config, make_mesh("1"))


def test_a_name_that_is_neither_folder_nor_id():
    assert "no such directory, and not a Hub id (org/name)" in refusal("absent")
    assert "no such directory, and not a Hub id: " in refusal("a--b/c")

"""lm-eval's local-completions and local-chat-completions: choices, and what is written."""

import json

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
pytest.importorskip("transformers")
lm_eval = pytest.importorskip("lm_eval")

from serving import serving  # noqa: E402

from experiments.bench.serving import ServingConfig, random_model  # noqa: E402
from experiments.serve import ServeConfig, engine_of  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("lm_eval")
    return random_model(ServingConfig(layers=2, width=128, vocab=512), where)


def test_lm_eval(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    from lm_eval.tasks import TaskManager

    rows = [
        {"q": f"w{i + 3} w{i + 4}", "choices": [f"w{i + 30} w7", f"w{i + 50} w9 w8"], "gold": i % 2}
        for i in range(6)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "doc_to_text": "{{q}}",
    }
    choice = {
        **task, "task": "choice", "output_type": "multiple_choice", "doc_to_target": "{{gold}}",
        "doc_to_choice": "{{choices}}", "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    written = {
        **task, "task": "written", "output_type": "generate_until", "doc_to_target": "w9",
        "generation_kwargs": {"until": ["w5"], "max_gen_toks": 8, "temperature": 0},
        "metric_list": [{"metric": "exact_match"}],
    }  # fmt: skip
    conversation, engine = engine_of(ServeConfig(model=str(folder), slots=4))

    def evaluated(kind: str, path: str, tasks: list[dict], chat: bool) -> dict:
        args = f"model=tested,base_url={server.url}/v1{path},num_concurrent=2,max_retries=1,"
        return lm_eval.simple_evaluate(
            model=kind,
            model_args=f"{args}tokenizer_backend=huggingface,tokenizer={folder}",
            tasks=tasks,
            task_manager=TaskManager(),
            apply_chat_template=chat,
            bootstrap_iters=10,
        )["samples"]

    with serving(conversation=conversation, engine=engine) as server:
        text = evaluated("local-completions", "/completions", [choice, written], False)
        chat = evaluated("local-chat-completions", "/chat/completions", [written], True)
        for sample in text["choice"]:
            for (asked, answer), ((logp, _),) in zip(
                sample["arguments"], sample["resps"], strict=True
            ):
                ids, more = (conversation.tokenizer.encode(t) for t in (asked, answer))
                want = engine.score([ids + more])[0].logp_T[len(ids) - 1 :].sum()
                assert logp == pytest.approx(want, abs=1e-4)
        for sample in (*text["written"], *chat["written"]):
            assert len(sample["resps"][0][0].split()) <= 8

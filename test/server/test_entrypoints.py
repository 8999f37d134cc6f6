"""The ways a person reaches the cache: ``sglang serve``, the OpenAI API, the Engine; and misuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from local_server import LocalServer, launch_command
from openai import OpenAI
from support.client import flush
from support.forked import run_python
from support.forked_server import MARCONI

pytestmark = pytest.mark.server

SYSTEM = {"role": "system", "content": "You answer questions about trains. " * 20}


def cached(usage: object) -> int:
    """Prompt tokens the server says it reused; the API leaves the field out for none."""
    details = getattr(usage, "prompt_tokens_details", None)
    return int(details.cached_tokens or 0) if details is not None else 0


def test_chat_completions(marconi: LocalServer) -> None:
    flush(marconi.url)
    client = OpenAI(base_url=f"{marconi.url}/v1", api_key="none")
    seen = []
    for question in ("When?", "Where?", "Which platform?"):
        answer = client.chat.completions.create(
            model="default",
            messages=[SYSTEM, {"role": "user", "content": question}],
            max_tokens=8,
            temperature=0,
        )
        assert answer.usage is not None
        seen.append(cached(answer.usage))
    # The three share the system message and the start of the user's turn.
    assert seen[:2] == [0, 0]
    assert seen[2] > 100


def test_completions_streamed(marconi: LocalServer) -> None:
    flush(marconi.url)
    client = OpenAI(base_url=f"{marconi.url}/v1", api_key="none")
    seen = []
    for _ in range(3):
        stream = client.completions.create(
            model="default",
            prompt="One two three four five six seven. " * 10,
            max_tokens=8,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        usages = [chunk.usage for chunk in stream if chunk.usage is not None]
        seen.append((usages[-1].prompt_tokens, cached(usages[-1])))
    assert seen[2][1] == seen[2][0] - 1


def test_sglang_serve_without_a_wrapper(model: Path, tmp_path: Path) -> None:
    """The plain command of the README, on a model the backend cannot serve: it says so and ends."""
    config = json.loads((model / "config.json").read_text())
    llama = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "num_hidden_layers": 2,
        "vocab_size": config["vocab_size"],
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "torch_dtype": "float32",
    }
    for file in model.glob("*token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(llama))
    run = subprocess.run(
        [
            str(Path(sys.executable).with_name("sglang")),
            "serve",
            *("--model-path", str(tmp_path), "--device", "cpu"),
            *("--load-format", "dummy", "--radix-cache-backend", "marconi"),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode != 0
    assert "needs a model with recurrent layers" in run.stderr
    assert "Load weight" not in run.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--disable-radix-cache",), "--disable-radix-cache"),
        (("--radix-eviction-policy-config", '{"alhpa": 1}'), "unknown key 'alhpa'"),
    ],
)
def test_bad_use_ends_before_the_model_loads(
    model: Path, arguments: tuple[str, ...], named: str
) -> None:
    command = launch_command(model, *MARCONI, *arguments)
    run = run_python(*command[1:])
    assert run.returncode != 0
    assert named in run.stderr
    assert "Load weight" not in run.stderr


ENGINE = """
import sys, sglang
engine = sglang.Engine(
    model_path=sys.argv[1], radix_cache_backend="marconi", device="cpu", dtype="float32",
    attention_backend="torch_native", sampling_backend="pytorch",
    max_total_tokens=8192, max_mamba_cache_size=32, max_running_requests=4,
    radix_eviction_policy_config={"file": sys.argv[2]},
)
print("given", engine.get_server_info()["radix_eviction_policy_config"]["policy"], flush=True)
prompt = list(range(300, 500))
for i in range(3):
    answer = engine.generate(
        input_ids=[*prompt, 600 + i], sampling_params={"temperature": 0, "max_new_tokens": 2}
    )
    print("cached", answer["meta_info"]["cached_tokens"], flush=True)
engine.shutdown()
"""


def test_engine(model: Path, tmp_path: Path) -> None:
    script = tmp_path / "engine.py"
    script.write_text(f"if __name__ == '__main__':\n{_indented(ENGINE)}")
    settings = tmp_path / "settings.toml"
    _write_for_one_reader(settings, 'policy = "marconi"\nalpha = 1\ncheckpoint_memory = 0.5\n')
    started = time.monotonic()
    run = subprocess.run(
        [sys.executable, str(script), str(model), str(settings)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith(("given ", "cached "))]
    assert lines == ["given marconi", "cached 0", "cached 0", "cached 200"], (
        run.stderr[-3000:] + f"\nafter {time.monotonic() - started:.0f} s"
    )


def _write_for_one_reader(path: Path, text: str) -> None:
    """A file that is gone once it was read."""
    os.mkfifo(path)

    def write() -> None:
        with path.open("w") as pipe:
            path.unlink()
            pipe.write(text)

    threading.Thread(target=write, daemon=True).start()


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())

"""SGLang's HTTP application in a worker process, once it has loaded its plugins.

SGLang loads them in all processes but the workers of ``--tokenizer-worker-num``, which import what
``SGLANG_HTTP_SERVER_APP_PATH`` names.
"""

from sglang.srt.plugins import load_plugins

load_plugins()

from sglang.srt.entrypoints.http_server import app  # noqa: E402

__all__ = ["app"]

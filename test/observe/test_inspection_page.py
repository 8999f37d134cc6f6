"""The page in a real browser, with a small and a large tree."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import uvicorn
from fastapi import FastAPI
from sglang_marconi.observe.inspection.routes import add_routes
from sglang_marconi.observe.inspection.snapshot import SHOWN
from sglang_marconi.observe.inspection.state import Eviction, Interval, Node, State

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")

FORMS = ("exact", "int8", "host", None)


def node(at: int, parent: int, start: int, *, nodes: int = 0) -> Node:
    form = FORMS[at % 4] if at else None
    return Node(
        id=f"{at:012x}",
        parent=parent,
        start=start,
        tokens=100 if at else 0,
        form=form,
        score=None if form is None else float(at),
        group=None if form is None else "checkpoints",
        age=at,
        hits=at % 3,
        locked=at == 1,
        nodes=nodes,
        hidden_tokens=10 * nodes,
        checkpoints=nodes // 2,
    )


def state(tree: list[Node], nodes: int) -> State:
    now = time.time()
    return State(
        time=now,
        policy="auto",
        alpha=None,
        ticks=10,
        nodes=nodes,
        tokens=100 * nodes,
        checkpoints=3,
        checkpoint_forms={"exact": 2, "host": 1},
        checkpoint_capacity_bytes={"device": 10**9, "host": 2 * 10**9},
        tree=tree,
        evictions=[
            Eviction(now, "ab" * 6, "leaf", "branch_once", 321, 7, 1, "checkpoints", 0.25),
            Eviction(now, "cd" * 6, "leaf", "stateless", 5, 9, 0, "nothing resumes there", 0.0),
        ],
        intervals=[Interval(now - 20, 10.0, 200, 150, 20, 4)],
        snapshot_seconds=0.002,
    )


SMALL = state([node(0, -1, 0), node(1, 0, 0), node(2, 1, 100), node(3, 1, 100), node(4, 0, 0)], 4)
LARGE = state(
    [node(0, -1, 0, nodes=10_000 - SHOWN)]
    + [node(at, (at - 1) // 3, 100 * ((at - 1) // 3 > 0)) for at in range(1, SHOWN + 1)],
    10_000,
)


class Served:
    """Our routes on a server of their own; ``states`` is what the schedulers answer."""

    def __init__(self) -> None:
        self.states: list[State] = []
        app = FastAPI()
        add_routes(app, self._ask)
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    async def _ask(self) -> list[bytes]:
        return [msgspec.json.encode(state) for state in self.states]

    def __enter__(self) -> Served:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        (listener,) = self._server.servers[0].sockets
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/marconi"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Served() as served:
        yield served


def rendered(served: Served, tmp_path: Path, *states: State) -> str:
    """The page's elements once it has drawn."""
    served.states = list(states)
    command = (
        *(str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu"),
        *(f"--user-data-dir={tmp_path}", "--virtual-time-budget=1500", "--dump-dom", served.url),
    )
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_a_small_tree(served: Served, tmp_path: Path) -> None:
    page = rendered(served, tmp_path, SMALL)
    assert len(re.findall(r'<rect[^>]*class="node( bare)?"', page)) == 4
    marks = {kind: page.count(f'class="{kind}"') for kind in ("mark exact", "mark")}
    # The legend has one of each.
    assert marks == {"mark exact": 1 + 1, "mark": 2 + 2}
    assert page.count('class="locked"') == 1 + 1
    assert "75.0 %" in page and "1.0 GB" in page
    assert "KV and state" in page and "branch, once" in page
    assert "lowest score of: checkpoints" in page and "nothing resumes there, the oldest" in page
    assert "live, " in page


def test_ten_thousand_prefixes_draw_in_under_a_second(served: Served, tmp_path: Path) -> None:
    page = rendered(served, tmp_path, LARGE)
    assert len(re.findall(r'<rect[^>]*class="node( bare)?"', page)) == SHOWN
    assert "9600 more" in page
    drawn = re.search(r'data-drawn="([\d.]+)"', page)
    assert drawn is not None
    assert float(drawn[1]) < 1000


def test_several_replicas_and_none(served: Served, tmp_path: Path) -> None:
    page = rendered(served, tmp_path / "two", SMALL, LARGE)
    assert "replica 1</option>" in page
    page = rendered(served, tmp_path / "none")
    assert "no scheduler answers" in page


def test_nothing_comes_from_elsewhere() -> None:
    text = Path(add_routes.__code__.co_filename).with_name("page.html").read_text()
    outside = set(re.findall(r"https?://[^\s\"']+", text)) - {"http://www.w3.org/2000/svg"}
    assert not outside
    assert not re.search(r"<(link|img|script|iframe)[^>]*\b(src|href)=", text)

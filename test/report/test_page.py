"""The page and its images, written from a folder of records."""

import re
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import pytest
from sglang_marconi import units
from sglang_marconi.records import RequestRecord, RunRecord
from sglang_marconi.report.write import write_report
from support.run_records import GB, fill, request, run

PLOTS = {
    "hit-rate-by-budget.png",
    "hit-rate-over-time-chat-on-hybrid.png",
    "memory-over-time-chat-on-hybrid.png",
    "saved-flops.png",
    "ttft-chat-on-hybrid.png",
    "tpot-chat-on-hybrid.png",
}


class Text(HTMLParser):
    """What a reader sees, by the heading that it stands below, and all start tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.sections: dict[str, list[str]] = {"": []}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if text := data.replace("\N{NO-BREAK SPACE}", " ").strip():
            if self.tags[-1][0] == "h2" and self.get_starttag_text() == "<h2>":
                self.sections.setdefault(text, [])
            list(self.sections.values())[-1].append(text)


def pngs(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.png")}


def read(folder: Path) -> Text:
    return Text(write_report(folder).read_text(encoding="utf-8"))


def runs() -> list[RunRecord]:
    return [
        run("lru", token_hit_rate=0.3),
        run("marconi", token_hit_rate=0.345),
        run("marconi", 8 * GB, token_hit_rate=0.6344),
    ]


def requests() -> list[RequestRecord]:
    return [
        request(
            of.policy,
            of.budget_bytes,
            float(arrival),
            hit_tokens=20 * arrival,
            state_bytes=GB,
            kv_bytes=arrival * GB,
            ttft=0.1 + arrival,
            tpot=0.01 + arrival,
        )
        for of in runs()
        for arrival in range(3)
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything was measured that plots need, and its page."""
    folder = fill(tmp_path_factory.mktemp("whole"), runs(), requests())
    assert write_report(folder) == folder / "report.html"
    return folder


def page_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_writes_a_page_with_all_plots_inside(whole: Path) -> None:
    assert pngs(whole) == PLOTS
    text = Text(page_of(whole))
    sources = [attributes["src"] or "" for tag, attributes in text.tags if tag == "img"]
    inside = {b64decode(source.removeprefix("data:image/png;base64,")) for source in sources}
    assert inside == {(whole / name).read_bytes() for name in PLOTS}
    assert all(image.startswith(b"\x89PNG") for image in inside)
    assert not any("Left out" in line for lines in text.sections.values() for line in lines)


def test_the_page_has_the_numbers(whole: Path) -> None:
    text = Text(page_of(whole))
    best = text.sections["Best policy by budget"]
    assert best[best.index("5 GB") :] == [
        *("5 GB", "marconi", "34.5 %", "30.0 %", "+4.5 points"),
        *("8 GB", "marconi", "63.4 %", units.MISSING, units.MISSING),
    ]
    everything = text.sections["All runs"]
    assert everything.count("marconi") == 2
    assert {"63.4 %", "2 PFLOP", "1,000", "400", "4 GB", "7", "1.5 s"} <= set(everything)
    assert "Runs: 3, with 9 requests in all" in text.sections[""][-1]
    assert "Time to first token, P50: in none of the runs." in text.sections["Not measured"]
    meaning = text.sections["What the numbers mean"]
    assert meaning[meaning.index("GB") + 1] == "10⁹ bytes."


def test_the_page_needs_nothing_else_and_adapts(whole: Path) -> None:
    page = page_of(whole)
    text = Text(page)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in text.tags}
    assert not re.search(r"https?:|url\(|@import", page)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in (
        text.tags
    )
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert all(attributes["alt"] for tag, attributes in text.tags if tag == "img")


def test_calling_again_writes_the_same(whole: Path) -> None:
    names = [*PLOTS, "report.html", "runs.jsonl", "requests.jsonl"]
    first = {name: (whole / name).read_bytes() for name in names}
    write_report(whole)
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == first


def test_names_are_escaped(tmp_path: Path) -> None:
    odd = '<script>alert("$x")</script> & {y} ${title}'
    names = {"trace": f"trace {odd}", "model": f"model {odd}"}
    of_run = run(f"policy {odd}", **names)
    of_requests = [request(f"policy {odd}", arrival=float(at), **names) for at in range(2)]
    page = write_report(fill(tmp_path, [of_run], of_requests)).read_text(encoding="utf-8")
    text = Text(page)
    assert "script" not in {tag for tag, _ in text.tags}
    assert f"policy {odd}" in text.sections["All runs"]
    assert f"trace {odd} on model {odd}" in text.sections["All runs"]
    assert f"Trace replay: trace {odd}" in text.sections[""]
    assert all(re.fullmatch(r"[A-Za-z0-9.-]+\.png", name) for name in pngs(tmp_path))


def test_a_single_run_without_requests_says_what_is_left_out(tmp_path: Path) -> None:
    text = read(fill(tmp_path, [run("marconi")]))
    assert pngs(tmp_path) == {"hit-rate-by-budget.png", "saved-flops.png"}
    for heading in (
        "Token hit rate over time",
        "Memory over time",
        "Time to first token",
        "Time per output token",
    ):
        assert text.sections[heading][1:] == ["Left out: there are no records of requests."]
    assert any("no requests.jsonl" in line for line in text.sections[""])
    assert text.sections["Best policy by budget"][-3:] == ["5 GB", "marconi", "40.0 %"]


@pytest.mark.parametrize(
    ("fields", "heading", "reason", "plot"),
    [
        ({"state_bytes": None}, "Memory over time", "the bytes of states and KV", "memory"),
        ({"ttft": None}, "Time to first token", "it was not measured.", "ttft"),
        ({"tpot": None}, "Time per output token", "it was not measured.", "tpot"),
        ({"ttft": 0.0}, "Time to first token", "it is zero", "ttft"),
    ],
)
def test_a_plot_without_its_data_is_left_out(
    tmp_path: Path, fields: dict[str, float | None], heading: str, reason: str, plot: str
) -> None:
    whole = {"state_bytes": GB, "kv_bytes": GB, "ttft": 0.1, "tpot": 0.1}
    records = [request(arrival=float(at), **(whole | fields)) for at in range(3)]
    text = read(fill(tmp_path, [run()], records))
    assert text.sections[heading][1].startswith(f"Left out: {reason}")
    assert {name for name in PLOTS if not name.startswith(plot)} == pngs(tmp_path)


def test_requests_that_arrive_at_once_have_no_plots_over_time(tmp_path: Path) -> None:
    records = [request(arrival=7.0, state_bytes=GB, kv_bytes=GB) for _ in range(3)]
    text = read(fill(tmp_path, [run()], records))
    for heading in ("Token hit rate over time", "Memory over time"):
        assert text.sections[heading][1:] == ["Left out: all requests arrive at the same time."]


def test_runs_that_saved_nothing_have_no_bars(tmp_path: Path) -> None:
    text = read(fill(tmp_path, [run(flops_saved=0.0)]))
    assert text.sections["Saved FLOPs"][1:] == ["Left out: no run saved any FLOPs."]
    assert "saved-flops.png" not in pngs(tmp_path)


def test_bounds_alone_have_no_best_policy(tmp_path: Path) -> None:
    text = read(fill(tmp_path, [run("unlimited", None)]))
    assert text.sections["Best policy by budget"][1].startswith("Left out: ")


def test_captions_name_the_budgets_that_are_not_shown(tmp_path: Path) -> None:
    budgets = [size * GB for size in range(1, 8)]
    records = [
        request("marconi", budget, float(at), state_bytes=GB, kv_bytes=0)
        for budget in (*budgets, None)
        for at in range(2)
    ]
    text = read(fill(tmp_path, [run("marconi", budget) for budget in (*budgets, None)], records))
    dashed = "Dashed lines are runs without a budget."
    assert text.sections["Token hit rate by budget"][-1] == dashed
    assert text.sections["Token hit rate over time"][-1] == (
        f"Not shown: 2 GB, 4 GB, 6 GB. {dashed}"
    )
    assert text.sections["Memory over time"][-1] == (
        "At 4 GB. Not shown: 1 GB, 2 GB, 3 GB, 5 GB, 6 GB, 7 GB, no budget."
    )


def test_traces_and_models_have_plots_of_their_own(tmp_path: Path) -> None:
    # The last two differ only in what a file name cannot hold.
    settings = [("a", "x"), ("a", "y"), ("b", "z/1"), ("b", "z 1")]
    of_runs = [run(trace=trace, model=model) for trace, model in settings]
    records = [
        request(arrival=float(at), trace=trace, model=model)
        for trace, model in settings[1:]
        for at in range(2)
    ]
    text = read(fill(tmp_path, of_runs, records))
    assert {name for name in pngs(tmp_path) if name.startswith("hit-rate-over-time")} == {
        "hit-rate-over-time-a-on-y.png",
        "hit-rate-over-time-b-on-z-1.png",
        "hit-rate-over-time-b-on-z-1-2.png",
    }
    left_out = "Left out: a on x: there are no records of requests."
    assert left_out in text.sections["Token hit rate over time"]
    images = [tag for tag, _ in text.tags if tag == "img"]
    assert len(images) == len(pngs(tmp_path)) == 5

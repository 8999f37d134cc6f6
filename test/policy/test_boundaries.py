"""Places inside prompts that are predicted: documents, instructions, and what only looks so."""

from __future__ import annotations

from sglang_marconi.policy.choice import Place
from support.prospecting import ASSISTANT, USER, Server, document, places


def test_a_document_is_predicted_once_several_have_been_asked_about_their_document() -> None:
    server = Server()
    seen = []
    for _ in range(6):
        text = document(server, 500)
        seen.append(places(server.ask([*text, *server.words(30), ASSISTANT])))
        for _ in range(2):
            server.ask([*text, *server.words(30), ASSISTANT])
    assert seen[0] == []
    assert seen[2:] == [[(504, Place.BOUNDARY)]] * 4


def test_a_marker_that_prompts_do_not_part_at_is_no_boundary() -> None:
    """The same tokens stand in each message; prompts part behind the first of them alone."""
    server = Server()
    marker = [11, 12, 13]

    def messages() -> list[int]:
        return [token for _ in range(4) for token in (*server.words(100), *marker)]

    for _ in range(8):
        start = [USER, *server.words(300), *marker]
        for _ in range(3):
            server.ask([*start, *messages(), *server.words(30)])
    text = [USER, *server.words(300), *marker]
    found = server.ask([*text, *messages(), *server.words(30)])
    assert places(found) == [(304, Place.BOUNDARY)]


def test_a_prompt_may_have_several() -> None:
    """A tenant's instructions, then a document."""
    server = Server()
    for _ in range(8):
        instructions = [USER, *server.words(300), 21, 22, 23]
        for number in range(3):
            text = [*instructions, *server.words(500), 11, 12, 13]
            found = [server.ask([*text, *server.words(30)]) for _ in range(3)]
            if not number:
                first = found[0]
    assert places(first) == [(304, Place.BOUNDARY), (807, Place.BOUNDARY)]


def test_what_no_other_prompt_can_share_is_no_boundary() -> None:
    """The last token of a prompt has to be computed."""
    server = Server()
    for _ in range(6):
        text = document(server, 500)
        prompt = [*text, *server.words(30), ASSISTANT]
        for _ in range(3):
            server.ask(prompt)
            server.ask([*text, *server.words(30), ASSISTANT])
    (place,) = places(server.ask(document(server, 500)))
    assert place == (503, Place.PROMPT)


def test_a_document_that_the_cache_forgets_each_time_counts_once() -> None:
    chances = []
    for times in (1, 40):
        server = Server()
        for _ in range(4):
            text = document(server, 500)
            for _ in range(3):
                server.ask([*text, *server.words(30), ASSISTANT])
        server.forgets = True
        text = document(server, 500)
        for _ in range(times + 1):
            server.ask([*text, *server.words(30), ASSISTANT])
        (found,) = server.ask([*document(server, 500), *server.words(30), ASSISTANT])
        chances.append(found.chance)
    assert chances[0] == chances[1]


def test_where_requests_of_a_document_resume_already_nothing_is_predicted() -> None:
    server = Server()
    for _ in range(6):
        text = document(server, 500)
        for _ in range(3):
            server.ask([*text, *server.words(30), ASSISTANT])
    text = document(server, 500)
    question = [*text, *server.words(30), ASSISTANT]
    assert server.ask(question, above=500) == []


def test_the_chance_is_how_many_documents_are_asked_about_again() -> None:
    """One in four is; the others come once."""
    server = Server()
    for number in range(80):
        text = document(server, 500)
        found = server.ask([*text, *server.words(30), ASSISTANT])
        if number % 4 == 0:
            server.ask([*text, *server.words(30), ASSISTANT])
    (each,) = found
    assert each.tokens == 504
    assert 0.15 < each.chance < 0.35

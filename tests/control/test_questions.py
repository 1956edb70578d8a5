"""Questions to proxies: an answer, none in time, somebody else's."""

import pytest
import trio

from mesh.control.cluster import ServiceKey
from mesh.control.questions import DEADLINE, MOST_OPEN, MOST_STEPS, NoAnswer, Questions
from mesh.model.explain import Question, Step
from mesh.model.push import Explained

QUESTION = Question("outbound", "votes")


class FakeLink:
    """A proxy that takes messages, unless it is full."""

    workload = ServiceKey("demo", "web")

    def __init__(self, full=False):
        self.full, self.sent = full, []

    def send(self, message):
        self.sent.append(message)
        return not self.full


async def asked(questions, link, answers):
    """Puts the outcome of one question in `answers`."""
    try:
        answers.append(await questions.ask(link, QUESTION))
    except NoAnswer as exc:
        answers.append(str(exc))


async def test_an_answer_is_marked_with_who_gave_it(nursery, autojump_clock):
    """Whatever the proxy says of itself, and however much it says."""
    questions, link, answers = Questions(), FakeLink(), []
    nursery.start_soon(asked, questions, link, answers)
    await trio.testing.wait_all_tasks_blocked()
    [message] = link.sent
    assert message.question == QUESTION
    questions.take(link, Explained(message.number, (Step("name", "found", where="king.demo"),) * (MOST_STEPS + 1)))
    await trio.testing.wait_all_tasks_blocked()
    assert answers == [(Step("name", "found", where="web.demo"),) * MOST_STEPS]
    questions.take(link, Explained(message.number, ()))  # twice
    assert repr(questions) == "<Questions open=0 asked=1>"


async def test_no_answer_in_time(nursery, autojump_clock):
    """Neither another proxy's answer nor one to another question counts."""
    questions, link, answers = Questions(), FakeLink(), []
    nursery.start_soon(asked, questions, link, answers)
    await trio.testing.wait_all_tasks_blocked()
    questions.take(FakeLink(), Explained(link.sent[0].number, ()))
    questions.take(link, Explained(link.sent[0].number + 1, ()))
    began = trio.current_time()
    await trio.sleep(DEADLINE + 0.1)
    assert answers == ["the proxy of web.demo has not answered within 2 s"]
    assert trio.current_time() - began < 2 * DEADLINE


async def test_bounds(nursery, autojump_clock):
    """So many at a time; and none to a proxy that does not read."""
    questions, answers = Questions(), []
    with pytest.raises(NoAnswer, match="too much to read"):
        await questions.ask(FakeLink(full=True), QUESTION)
    for _ in range(MOST_OPEN):
        nursery.start_soon(asked, questions, FakeLink(), answers)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(NoAnswer, match="wait for an answer already"):
        await questions.ask(FakeLink(), QUESTION)
    await trio.sleep(DEADLINE + 0.1)
    assert len(answers) == MOST_OPEN

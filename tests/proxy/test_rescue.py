"""Errors of the proxy's own, as clients of HTTP and gRPC are told them."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.proxy.rescue import ANSWERS, Answer, Reason, response, sentence


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_its_answer(reason: Reason) -> None:
    """A status of error, a gRPC status that exists and is none of OK, a reset code of RFC 9113."""
    answer = ANSWERS[reason]
    assert 400 <= answer.status < 600
    assert 1 <= answer.grpc_status <= 16
    assert 0 < answer.reset <= 0xD


@pytest.mark.parametrize("reason", list(Reason))
def test_http_answers_carry_reason_line_and_length(reason: Reason) -> None:
    """`conduit-error` names the reason; the body is the line; its length is declared."""
    head, body = response(reason, "service votes: why", grpc=False)
    assert head.status == ANSWERS[reason].status
    assert head.get(b"conduit-error") == reason.value.encode()
    assert body == b"service votes: why\n"
    assert head.get(b"content-length") == b"%d" % len(body)


@pytest.mark.parametrize("reason", list(Reason))
def test_grpc_answers_are_trailers_only(reason: Reason) -> None:
    """Status 200, grpc-status, the line as grpc-message, no body."""
    head, body = response(reason, "service votes: 100% why", grpc=True)
    assert (head.status, body) == (200, b"")
    assert head.get(b"content-type") == b"application/grpc"
    assert head.get(b"grpc-status") == b"%d" % ANSWERS[reason].grpc_status
    assert head.get(b"grpc-message") == b"service votes: 100%25 why"
    assert head.get(b"conduit-error") == reason.value.encode()


def test_a_status_can_be_asked_for() -> None:
    """An HTTP status of the caller's choice replaces the table's."""
    assert response(Reason.FAULT, "x", grpc=False, answer=Answer(418, 5, 0))[0].status == 418


@given(st.text(), st.text(), st.text())
def test_a_peers_words_cannot_break_the_line(service: str, endpoint: str, cause: str) -> None:
    """Whatever it says, a sentence is one line of printable ASCII that any header or terminal can take."""
    text = sentence(service, endpoint, cause)
    assert all(" " <= char <= "~" for char in text)
    head, _ = response(Reason.INTERNAL, text, grpc=True)
    assert unquote_to_bytes(head.get(b"grpc-message")) == text.encode()


def test_a_sentence_names_service_endpoint_and_cause() -> None:
    """The endpoint only where there is one."""
    assert sentence("votes", "10.0.0.1:80", "Connection refused") == (
        "service votes, endpoint 10.0.0.1:80: Connection refused"
    )
    assert sentence("votes", "", "no endpoint") == "service votes: no endpoint"

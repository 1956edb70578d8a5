"""What was asked is counted by kind, with paths as templates, in bounded room."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.proxy.authorize import Decision
from mesh.proxy.witness import KEYS, LONG, MAX_PATH, MEMO, OVERFLOW, Witness, template

WEB = "web.demo.serviceaccount.identity.cluster.local"
YES = Decision(True, "demo/web", "it is named", "")
NO = Decision(False, "default:deny", "nobody is named", "")


def noted(witness, path=b"/", *, identity=WEB, source="", protocol="http", method=b"GET", decision=YES, times=1):
    for _ in range(times):
        witness.note("votes", identity, source, protocol, method, path, decision)


def test_each_kind_is_told_once_with_its_count():
    """Who, what and the decision make a kind; the query of a path does not."""
    witness = Witness()
    noted(witness, b"/things?a=1", times=3)
    noted(witness, b"/things", times=2)
    noted(witness, b"/things", method=b"POST")
    noted(witness, b"/things", decision=NO)
    noted(witness, b"/things", identity="", source="10.0.0.7", decision=NO._replace(audited="demo/watch"))
    rows = {(s.identity, s.source, s.method, s.allowed, s.by, s.audited): s for s in witness.drain()}
    assert {kind: s.count for kind, s in rows.items()} == {
        (WEB, "", "GET", True, "demo/web", ""): 5,
        (WEB, "", "POST", True, "demo/web", ""): 1,
        (WEB, "", "GET", False, "default:deny", ""): 1,
        ("", "10.0.0.7", "GET", False, "default:deny", "demo/watch"): 1,
    }
    assert {(s.service, s.protocol, s.path, s.example) for s in rows.values()} == {
        ("votes", "http", "/things", "/things")
    }


def test_what_is_drained_is_not_told_again():
    """Between two drains nothing happened: there is nothing to tell; what comes then is told alone."""
    witness = Witness()
    noted(witness, times=4)
    assert [s.count for s in witness.drain()] == [4]
    assert witness.drain() == []
    noted(witness)
    assert [s.count for s in witness.drain()] == [1]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "/"),
        ("", ""),
        ("*", "*"),
        ("/api/v1/things", "/api/v1/things"),
        ("/polls/42", "/polls/*"),
        ("/polls/42/votes/7", "/polls/*/votes/*"),
        ("/polls/42/", "/polls/*/"),
        ("/4shared", "/4shared"),
        ("/2024-05-01", "/*"),
        ("/v2/mp3/page-12", "/v2/mp3/page-12"),
        ("/receipts/b000031", "/receipts/*"),
        ("/orders/order-2041.pdf", "/orders/*"),
        ("/u/123e4567-e89b-12d3-a456-426614174000/x", "/u/*/x"),
        ("/o/deadbeefdeadbeef", "/o/*"),
        ("/o/deadbeef", "/o/deadbeef"),
        ("/s/dGhpcyBpcyBhIHNlY3JldDEyMw==", "/s/*"),
        ("/s/V1StGXR8_Z5jdHi6B-myT", "/s/*"),
        ("/getUserAccountInformation", "/getUserAccountInformation"),
        ("/internationalization/of-all-our-pages", "/internationalization/of-all-our-pages"),
        ("/" + "word-" * 13, "/*"),
        ("/" + "w" * 64, "/" + "w" * 64),
    ],
)
def test_template(path, expected):
    """Keys become `*`; words, also long ones, stay."""
    assert template(path) == expected


def test_grpc_methods_are_no_keys():
    """Whatever a method is called, it is kept; so is the nothing that a TCP connection has."""
    witness = Witness()
    noted(witness, b"/a.B/deadbeefdeadbeef00", protocol="grpc", method=b"POST")
    noted(witness, b"", protocol="tcp", method=b"")
    assert {(s.protocol, s.method, s.path) for s in witness.drain()} == {
        ("grpc", "POST", "/a.B/deadbeefdeadbeef00"),
        ("tcp", "", ""),
    }


def test_the_example_is_the_first_path_as_it_came():
    """A person sees what `*` stands for."""
    witness = Witness()
    noted(witness, b"/polls/42?secret=1")
    noted(witness, b"/polls/43")
    assert [(s.path, s.example, s.count) for s in witness.drain()] == [("/polls/*", "/polls/42", 2)]


def test_what_is_too_long_is_cut():
    """A path's end and a method beyond the bound become `*`: they are not kept."""
    witness = Witness()
    noted(witness, b"/a/" + b"b" * 20_000, method=b"X" * 33)
    noted(witness, b"/a" * 5_000)
    first, second = witness.drain()
    assert (first.path, first.method, len(first.example)) == ("/a/*", "*", MAX_PATH)
    assert second.path == "/a" * (MAX_PATH // 2 - 1) + "/*"


def test_a_scanner_finds_one_row_beyond_the_bound():
    """Of more kinds than KEYS the rest is counted together, by service and by what was decided; later there is room."""
    witness = Witness()
    for number in range(KEYS + 100):
        noted(witness, b"/word" + bytes([97 + number % 26, 97 + number // 26]))
    noted(witness, b"/other", decision=NO, times=3)
    rows = witness.drain()
    assert len(rows) == KEYS + 2
    rest = {(s.allowed, s.identity, s.path, s.example, s.service): s.count for s in rows if s.protocol == OVERFLOW}
    assert rest == {(True, "", "", "", "votes"): 100, (False, "", "", "", "votes"): 3}
    noted(witness, b"/new")
    assert [(s.path, s.protocol) for s in witness.drain()] == [("/new", "http")]


def test_the_memo_is_bounded():
    """Many paths of one kind, and overlong ones, do not stay in memory."""
    witness = Witness()
    for number in range(MEMO + 10):
        noted(witness, b"/polls/%d" % number)
    noted(witness, b"/" + b"x" * LONG)
    assert len(witness._memo) <= MEMO
    assert all(len(key[5]) <= LONG for key in witness._memo)
    assert sum(s.count for s in witness.drain()) == MEMO + 11


@given(
    st.lists(
        st.tuples(
            st.binary(max_size=30), st.sampled_from([b"GET", b"POST"]), st.sampled_from([YES, NO]), st.booleans()
        ),
        max_size=60,
    )
)
def test_counts_are_conserved(requests):
    """Whatever is asked, and whenever it is drained, each request is told once."""
    witness = Witness()
    told = 0
    for path, method, decision, drain in requests:
        noted(witness, path, method=method, decision=decision)
        if drain:
            told += sum(s.count for s in witness.drain())
    assert told + sum(s.count for s in witness.drain()) == len(requests)

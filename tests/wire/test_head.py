"""A head is read by name and edited as a copy."""

from mesh.wire.head import Head

BLOCK = ((b":method", b"GET"), (b":path", b"/"), (b"a", b"1"), (b"b", b"2"), (b"a", b"3"))


def head():
    return Head(BLOCK, b"GET", b"http", b"", b"/")


def test_get_reads_one_value():
    """`get` finds the last of a repeated field, and nothing where there is none."""
    assert head().get(b"a") == b"3"
    assert head().get(b"b") == b"2"
    assert head().get(b"c") is None


def test_get_all_keeps_order():
    """`get_all` finds every value of a field."""
    assert head().get_all(b"a") == [b"1", b"3"]
    assert head().get_all(b"c") == []


def test_block_that_nobody_edits_is_the_one_given():
    """Reading leaves the codec's own object in place, to be sent as it is."""
    subject = head()
    subject.get(b"a")
    subject.get_all(b"a")
    assert subject.block is BLOCK


def test_an_index_that_is_given_is_used():
    """A codec that has made the index already need not have it made again."""
    assert Head(BLOCK, index={b"a": b"given"}).get(b"a") == b"given"


def test_set_replaces_every_field_of_the_name():
    """`set` leaves one field; the block that was given does not change."""
    subject = head()
    assert subject.get(b"a") == b"3"
    subject.set(b"a", b"new")
    assert subject.get_all(b"a") == [b"new"]
    assert subject.get(b"a") == b"new"
    assert len(BLOCK) == 5
    assert BLOCK[2] == (b"a", b"1")


def test_add_keeps_what_is_there():
    """`add` appends, after an index was made too."""
    subject = head()
    subject.get(b"a")
    subject.add(b"a", b"4")
    assert subject.get_all(b"a") == [b"1", b"3", b"4"]
    assert subject.get(b"a") == b"4"
    assert len(BLOCK) == 5


def test_remove_drops_all_of_a_name():
    """`remove` drops every field of the name, and is silent where there is none."""
    subject = head()
    subject.get(b"a")
    subject.remove(b"a")
    subject.remove(b"unknown")
    assert subject.get(b"a") is None
    assert subject.get(b"b") == b"2"
    assert len(BLOCK) == 5


def test_request_puts_pseudo_fields_first():
    """A request of our own making has its pseudo fields in front, and says them as attributes."""
    made = Head.request(b"POST", b"/x", authority=b"a.b", scheme=b"https", fields=[(b"c", b"d")], upgrade=b"websocket")
    assert [name for name, _ in made.block] == [b":method", b":scheme", b":path", b":authority", b"c"]
    assert (made.method, made.scheme, made.path, made.authority) == (b"POST", b"https", b"/x", b"a.b")
    assert made.upgrade == b"websocket"
    assert made.status == 0


def test_connect_has_neither_scheme_nor_path():
    """CONNECT names an authority alone (RFC 9113 section 8.5)."""
    assert Head.request(b"CONNECT", b"", authority=b"a:1").block == [(b":method", b"CONNECT"), (b":authority", b"a:1")]


def test_response_says_its_status():
    """A response of our own making has its status as a number and as the first field."""
    made = Head.response(404, [(b"a", b"b")])
    assert made.status == 404
    assert made.block == [(b":status", b"404"), (b"a", b"b")]


def test_equality_is_of_fields():
    """Two heads are equal if their fields and what they upgrade to are, whatever sequences hold them."""
    assert Head(BLOCK) == Head(list(BLOCK))
    assert hash(Head(BLOCK)) == hash(Head(list(BLOCK)))
    assert Head(BLOCK) != Head(BLOCK[:-1])
    assert Head(BLOCK) != Head(BLOCK, upgrade=b"websocket")
    assert Head(BLOCK) != BLOCK


def test_repr_tells_what_it_is():
    """A head in a log or a failed test says which request or response it is."""
    assert repr(Head.response(200)) == "<Head 200, 1 fields>"
    assert repr(Head.request(b"GET", b"/p", authority=b"a")) == "<Head b'GET' b'a' b'/p', 4 fields>"

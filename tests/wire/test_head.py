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


def test_get_joined_makes_one_value_of_many():
    """In order, joined as RFC 9110 and, for cookies, RFC 9113 say; a value that is alone is that very object."""
    assert head().get_joined(b"a") == b"1,3"
    assert head().get_joined(b"b") is BLOCK[3][1]
    assert head().get_joined(b"c") is None
    assert Head(BLOCK[:4]).get_joined(b"a") is BLOCK[2][1]
    assert Head(((b"cookie", b"a=1"), (b"cookie", b"b=2"))).get_joined(b"cookie") == b"a=1; b=2"


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


def test_a_copy_is_edited_alone():
    """A copy says the same; an edit of either does not show in the other."""
    subject = Head.request(b"POST", b"/x", authority=b"a", scheme=b"https", fields=[(b"c", b"d")], upgrade=b"websocket")
    subject.get(b"c")
    other = subject.copy()
    assert other == subject
    assert (other.method, other.scheme, other.path, other.authority) == (b"POST", b"https", b"/x", b"a")
    other.set(b"c", b"e")
    subject.add(b"f", b"g")
    assert other.get_all(b"c") == [b"e"]
    assert subject.get(b"c") == b"d"
    assert other.get(b"f") is None
    assert Head.response(404).copy().status == 404


def test_with_request_changes_attributes_and_block_alike():
    """In the same places of the block; the head it was made of stays."""
    subject = Head.request(b"POST", b"/x", authority=b"a", fields=[(b"c", b"d")], upgrade=b"h")
    changed = subject.with_request(method=b"PUT", authority=b"b", path=b"/y")
    assert (changed.method, changed.authority, changed.path, changed.scheme) == (b"PUT", b"b", b"/y", b"http")
    assert changed == Head.request(b"PUT", b"/y", authority=b"b", fields=[(b"c", b"d")], upgrade=b"h")
    assert subject == Head.request(b"POST", b"/x", authority=b"a", fields=[(b"c", b"d")], upgrade=b"h")


def test_with_request_keeps_what_is_not_named():
    """And is the very head where nothing differs."""
    subject = Head.request(b"POST", b"/x", authority=b"a", fields=[(b"c", b"d")])
    assert subject.with_request(path=b"/y").authority == b"a"
    assert subject.with_request(authority=b"b").path == b"/x"
    assert subject.with_request() is subject
    assert subject.with_request(method=b"POST", authority=b"a", path=b"/x") is subject


def test_with_request_adds_an_authority_behind_the_pseudo_fields():
    """A request of HTTP/1.0 may have come without one."""
    changed = Head.request(b"GET", b"/x", fields=[(b"c", b"d")]).with_request(authority=b"a")
    assert changed.block == [*Head.request(b"GET", b"/x").block, (b":authority", b"a"), (b"c", b"d")]
    assert Head.request(b"GET", b"/x").with_request(authority=b"a").block[-1] == (b":authority", b"a")
    assert Head.request(b"GET", b"/x").with_request(path=b"/y").get(b":authority") is None


def test_with_request_takes_the_order_of_any_client():
    """Pseudo fields come in any order among themselves (RFC 9113 section 8.3)."""
    block = ((b":authority", b"a"), (b":path", b"/x"), (b":scheme", b"http"), (b":method", b"GET"), (b"c", b"d"))
    changed = Head(block, b"GET", b"http", b"a", b"/x").with_request(authority=b"b", path=b"/y")
    assert changed.block == [(b":authority", b"b"), (b":path", b"/y"), *block[2:]]


def test_connect_gets_no_path():
    """It names an authority alone (RFC 9113 section 8.5)."""
    subject = Head.request(b"CONNECT", b"", authority=b"a:1")
    assert subject.with_request(path=b"/y") is subject
    assert subject.with_request(authority=b"b:1").block == [(b":method", b"CONNECT"), (b":authority", b"b:1")]


def test_with_fields_drops_and_adds():
    """In a new head with the rest as it was; or it is the very head, if nothing differs."""
    subject = head()
    changed = subject.with_fields(frozenset((b"a", b"x")), [(b"a", b"4"), (b"e", b"5")])
    assert changed.block == [*BLOCK[:2], (b"b", b"2"), (b"a", b"4"), (b"e", b"5")]
    assert (changed.method, changed.scheme, changed.path) == (b"GET", b"http", b"/")
    assert subject.block is BLOCK
    assert subject.with_fields(frozenset(), [(b"a", b"4")]).get_all(b"a") == [b"1", b"3", b"4"]
    assert subject.with_fields(frozenset((b"x",)), []) is subject
    assert subject.with_fields(frozenset(), []) is subject


def test_with_field_is_set_on_another_head():
    """One field of the name is left; the head it was made of stays."""
    subject = Head.response(200, [(b"a", b"1"), (b"a", b"2")])
    changed = subject.with_field(b"a", b"3")
    assert changed == Head.response(200, [(b"a", b"3")])
    assert changed.status == 200
    assert subject.get_all(b"a") == [b"1", b"2"]


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

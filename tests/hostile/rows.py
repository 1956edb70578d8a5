"""What a proxy must survive, row by row, and the tests that hold it to it.

Each row is attacked through a real `conduit proxy` process. Where that makes sense, honest clients ask beside the
attacker, each on a connection of its own, and lose nothing; afterwards the proxy's memory is what it was, within ten
megabytes; and what was refused has been counted under a reason. `test_rows.py` sees to it that no row is without a test
and no test without a row.

    attacks.py    the attacks, each `await ATTACKS[name](port, seconds)`, for tests and for benchmarks
    honest.py     the honest clients, and the times that their answers took
    conftest.py   the proxies, and what must hold
    origin.py     the application behind them, which tells what has reached it
    frames.py     HTTP/2 as no library would write it
    buggy.py, jumping.py    `conduit` with a bug, and on a machine whose clock jumps
"""

ROWS: dict[str, tuple[str, ...]] = {
    # HTTP/2, with both codecs
    "rapid reset": ("test_streams_that_end_early", "test_a_client_that_cancels_much_survives"),
    "CONTINUATION flood, HPACK bomb, cookie crumbs": ("test_header_blocks",),
    "PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty-DATA floods": ("test_floods_of_control_frames",),
    "too many streams": ("test_too_many_streams", "test_the_number_of_streams_is_told"),
    "window stall, slow read": ("test_answers_that_are_not_taken",),
    "malformed messages": ("test_malformed_messages", "test_bodies_that_are_not_as_long_as_they_said"),
    # HTTP/1.1
    "request smuggling": ("test_smuggling", "test_smuggling_by_chunks", "test_what_is_forwarded_is_framed_anew"),
    "missing or duplicate Host and the like": ("test_requests_that_are_none",),
    "8 MB header, 100,000 headers, 1 MB chunk extension": (
        "test_heads_without_end",
        "test_a_dribbled_head_costs_what_it_is_long",
    ),
    "HEAD response with Content-Length, 1xx, 204, 304": ("test_doubtful_answers",),
    "slowloris, slow body, slow read": (
        "test_slowness",
        "test_a_slow_body_is_told",
        "test_dribbled_heads",
        "test_a_header_block_that_does_not_end",
    ),
    "pipelining": ("test_pipelining",),
    "CR/LF or NUL carried from h2 into h1": ("test_lines_do_not_get_into_http1",),
    # between planes and people
    "identity spoofing headers": (
        "test_clients_cannot_say_who_they_are",
        "test_connection_takes_nothing_away",
        "test_an_application_cannot_speak_for_a_proxy",
        "test_who_the_client_is_has_been_proved",
    ),
    "path tricks against policy": ("test_paths_are_forwarded_as_they_came",),
    "logs": ("test_logs_are_json", "test_nobody_reads_the_log"),
    "admin port": (
        "test_the_admin_port_changes_nothing",
        "test_the_admin_port_is_for_this_machine",
        "test_the_admin_port_under_attack",
    ),
    # the things that break
    "an endpoint dies, hangs, resets, answers garbage": (
        "test_a_broken_endpoint_beside_a_sound_one",
        "test_one_clear_error",
        "test_a_broken_http2_endpoint",
    ),
    "EMFILE": ("test_no_descriptor_is_free", "test_too_many_connections"),
    "a bug in one connection's handler": ("test_a_bug_ends_its_connection_only",),
    "cancelled TLS handshake": ("test_handshakes_that_do_not_end",),
    "clock jumps": ("test_the_clock_jumps",),
    "SIGTERM": ("test_the_end_is_announced",),
}
"""What is attacked or breaks -> tests, whose docstrings begin with `Row: ` and its name."""

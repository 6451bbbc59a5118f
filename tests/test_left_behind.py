"""What the fixture for all tests finds left behind of sockets."""

import socket

from tests import conftest


def test_a_line_to_the_same_peer_may_be_renewed_and_one_more_is_left_behind():
    with socket.create_server(("127.0.0.1", 0)) as server:
        pooled = socket.create_connection(server.getsockname())
        before = conftest._sockets()
        with socket.create_connection(server.getsockname()) as renewed:
            assert conftest._left_behind(before, conftest._sockets()) == [str(renewed.getsockname())]
            pooled.close()
            assert conftest._left_behind(before, conftest._sockets()) == []
            with socket.create_connection(server.getsockname()):
                assert len(conftest._left_behind(before, conftest._sockets())) == 1


def test_a_socket_that_listens_or_takes_datagrams_is_left_behind_and_one_without_an_address_is_not():
    before = conftest._sockets()
    with (
        socket.socket(),
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind(("127.0.0.1", 0))
        expected = {str(server.getsockname()), str(receiver.getsockname())}
        assert set(conftest._left_behind(before, conftest._sockets())) == expected

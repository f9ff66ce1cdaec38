from __future__ import annotations

from ipaddress import ip_network

import pytest

from gateway.chain.address import ClientAddress
from tests.calls import call_of

PROXIES = [ip_network(text) for text in ("10.0.0.0/8", "2001:db8:aa::/48", "127.0.0.1")]
PROXY = "10.0.0.1:55555"


async def address(peer: str | None, header: str | None = None, /, **headers: str) -> str:
    call = call_of(metadata={name.replace("_", "-"): value for name, value in headers.items()}, peer=peer)
    await ClientAddress(PROXIES, header)(call)
    return call.address


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("192.0.2.1:5", "192.0.2.1"),
        ("2001:db8::1:443", "2001:db8::1"),
        ("::1:443", "::1"),
        ("::ffff:192.0.2.1:443", "192.0.2.1"),
        ("fe80::1%eth0:443", "fe80::1"),
        ("ipv4:192.0.2.1:5", "192.0.2.1"),
        ("ipv6:[2001:db8::1]:5", "2001:db8::1"),
        ("ipv6:%5B2001:db8::1%5D:5", "2001:db8::1"),
        ("ipv6:%5B::ffff:192.0.2.1%5D:5", "192.0.2.1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5", "fe80::1"),
        ("unix:/run/gateway.sock", ""),
        ("unix:", ""),
        ("", ""),
        (None, ""),
    ],
)
async def test_a_peer_is_read_in_the_form_of_each_door(peer: str | None, expected: str) -> None:
    assert await address(peer) == expected


@pytest.mark.parametrize("peer", ["192.0.2.1:5", "11.0.0.1:5", "2001:db8:ab::1:5", "unix:/run/gateway.sock"])
@pytest.mark.parametrize("header", ["x_forwarded_for", "forwarded"])
async def test_nobody_else_than_a_trusted_proxy_is_believed(peer: str, header: str) -> None:
    forged = "198.51.100.7" if header == "x_forwarded_for" else "for=198.51.100.7"
    assert await address(peer, **{header: forged}) == await address(peer)


async def test_without_trusted_proxies_nobody_is_believed() -> None:
    for peer in ("127.0.0.1:5", "10.0.0.1:5", "::1:5", "ipv4:127.0.0.1:5"):
        headers = {"x-forwarded-for": "198.51.100.7", "forwarded": "for=198.51.100.7"}
        call = call_of(metadata=headers, peer=peer)
        await ClientAddress()(call)
        assert call.address in {"127.0.0.1", "10.0.0.1", "::1"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        ("2001:0DB8:0::7", "2001:db8::7"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("  192.0.2.1\t", "192.0.2.1"),
        # From the right: what a client sends itself stands left of what the proxies append.
        ("198.51.100.7, 192.0.2.1", "192.0.2.1"),
        ("198.51.100.7,192.0.2.1, 10.2.3.4,2001:db8:aa::1", "192.0.2.1"),
        ("nonsense, 192.0.2.1", "192.0.2.1"),
        # Within the trusted networks: the first of them.
        ("10.9.9.9, 10.8.8.8", "10.9.9.9"),
        # The nearest address that is known stands for one that is not.
        ("198.51.100.7, unknown, 10.2.3.4", "10.2.3.4"),
        ("198.51.100.7, unknown", "10.0.0.1"),
        ("unknown", "10.0.0.1"),
        ("_hidden", "10.0.0.1"),
        ("", "10.0.0.1"),
        (",", "10.0.0.1"),
        ("192.0.2.256", "10.0.0.1"),
        ("192.0.2.01", "10.0.0.1"),
        ("192.0.2.1:port", "10.0.0.1"),
        ("[192.0.2.1", "10.0.0.1"),
        ("١٩٢.0.2.1", "10.0.0.1"),
        ("192.0.2.1/8", "10.0.0.1"),
        ("client.example", "10.0.0.1"),
    ],
)
async def test_x_forwarded_for_of_a_trusted_proxy(given: str, expected: str) -> None:
    assert await address(PROXY, x_forwarded_for=given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("for=192.0.2.1", "192.0.2.1"),
        ("For=192.0.2.1;Proto=https;by=10.0.0.1", "192.0.2.1"),
        ("proto=https ; for=192.0.2.1", "192.0.2.1"),
        ('for="192.0.2.1:4711"', "192.0.2.1"),
        ('for="192.0.2.1:_port"', "192.0.2.1"),
        ('for="[2001:db8::7]"', "2001:db8::7"),
        ('for="[2001:db8::7]:4711"', "2001:db8::7"),
        (r'for="192.0.2\.1"', "192.0.2.1"),
        ("for=198.51.100.7, for=192.0.2.1", "192.0.2.1"),
        ('for=198.51.100.7,for=192.0.2.1;host="a,b;for=6.6.6.6",for=10.2.3.4', "192.0.2.1"),
        ("for=198.51.100.7, for=unknown, for=10.2.3.4", "10.2.3.4"),
        ("for=_hidden", "10.0.0.1"),
        ("for=198.51.100.7, proto=https", "10.0.0.1"),
        # Nothing of a malformed header is believed: a client can leave a quote open.
        ('for=198.51.100.7;host=", for=192.0.2.1', "10.0.0.1"),
        ('for=198.51.100.7;host=", for=192.0.2.1;proto="https"', "10.0.0.1"),
        ('for=198.51.100.7;host=", for="[2001:db8::7]"', "10.0.0.1"),
        ("for=198.51.100.7;for=192.0.2.1", "10.0.0.1"),
        ("for=[2001:db8::7]", "10.0.0.1"),
        ("for = 192.0.2.1", "10.0.0.1"),
        ("for", "10.0.0.1"),
        ("for=192.0.2.1;", "10.0.0.1"),
        ("=192.0.2.1", "10.0.0.1"),
        ("", "10.0.0.1"),
        ("for=192.0.2.1 for=192.0.2.2", "10.0.0.1"),
        ("x=y, " * 2000 + "for=192.0.2.1", "10.0.0.1"),
    ],
)
async def test_forwarded_of_a_trusted_proxy(given: str, expected: str) -> None:
    assert await address(PROXY, forwarded=given) == expected


async def test_a_trusted_proxy_that_tells_nothing_is_the_client() -> None:
    assert await address(PROXY) == "10.0.0.1"
    assert await address(PROXY, x_real_ip="198.51.100.7", client_ip="198.51.100.7") == "10.0.0.1"


async def test_two_headers_are_believed_if_they_agree() -> None:
    assert await address(PROXY, x_forwarded_for="192.0.2.1", forwarded="for=192.0.2.1") == "192.0.2.1"
    assert await address(PROXY, x_forwarded_for="192.0.2.1", forwarded="for=198.51.100.7") == "10.0.0.1"
    assert await address(PROXY, x_forwarded_for="192.0.2.1", forwarded="nonsense") == "10.0.0.1"


@pytest.mark.parametrize(
    ("header", "expected"), [("forwarded", "198.51.100.7"), ("x-forwarded-for", "192.0.2.1")]
)
async def test_the_operator_can_say_which_header_the_proxies_write(header: str, expected: str) -> None:
    given = {"x_forwarded_for": "192.0.2.1", "forwarded": "for=198.51.100.7"}
    assert await address(PROXY, header, **given) == expected
    del given["forwarded" if header == "forwarded" else "x_forwarded_for"]
    assert await address(PROXY, header, **given) == "10.0.0.1"


async def test_a_list_that_never_ends_is_read_as_far_as_proxies_go() -> None:
    hops = ", ".join(["198.51.100.7", *["10.1.1.1"] * 20_000])
    assert await address(PROXY, x_forwarded_for=hops) == "10.1.1.1"

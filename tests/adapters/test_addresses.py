"""Which addresses count as public, and that nobody waits for another one's names."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from gateway.adapters import addresses
from gateway.adapters.addresses import Names, Networks
from gateway.rpc.errors import InvalidArgument

PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"]
NOT_PUBLIC = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "2001::1",
    "2002:7f00:1::",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_permitted(address: str) -> None:
    assert Networks().permit(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_any_other_address_is_not(address: str) -> None:
    assert not Networks().permit(address)


def test_an_allowed_network_is_permitted_and_its_neighbour_is_not() -> None:
    networks = Networks(["10.1.0.0/16", "fd00::/8"])
    assert networks.permit("10.1.2.3")
    assert networks.permit("::ffff:10.1.2.3")
    assert networks.permit("fd00::1")
    assert not networks.permit("10.2.0.1")
    assert not networks.permit("127.0.0.1")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:5678",
        "http://localhost/x",
        "http://[::1]:80",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://127.1/",
        "http://0/",
        "http://169.254.169.254/latest/meta-data",
    ],
)
async def test_a_url_of_such_an_address_is_refused_by_its_field(url: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await Networks().check(url, "webhook.url")
    assert caught.value.reason == "ADDRESS_REFUSED"
    assert list(caught.value.fields) == ["webhook.url"]
    await Networks(["0.0.0.0/0", "::/0"]).check(url, "webhook.url")


async def test_a_port_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        await Networks().check("http://example.com:99999/", "url")


async def test_a_name_that_does_not_resolve_may_do_so_later() -> None:
    await Networks().check("http://no-such-host.invalid/", "url")


async def test_a_name_is_looked_up_once_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    go_on = threading.Event()

    def look_up(host: str, port: int) -> list[object]:
        asked.append(host)
        assert go_on.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port))]

    monkeypatch.setattr(addresses, "_look_up", look_up)
    names = Names()
    asking = [asyncio.create_task(names.find("slow.example", 80)) for _ in range(20)]
    asking[0].cancel()
    await asyncio.sleep(0)
    # Who has an address waits for nobody's name.
    [(*_, found)] = await names.find("127.0.0.1", 80)
    assert found == ("127.0.0.1", 80)
    go_on.set()
    for answer in asking[1:]:
        [(*_, found)] = await answer
        assert found == ("192.0.2.1", 80)
    await names.find("slow.example", 80)
    assert asked == ["slow.example"]


async def test_silent_name_servers_of_one_organization_keep_no_other_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on = threading.Event()

    def look_up(host: str, port: int) -> list[object]:
        assert host == "quick.example" or go_on.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", port))]

    monkeypatch.setattr(addresses, "_look_up", look_up)
    networks = Networks()
    checked = [networks.check(f"http://checked-{number}.example/", "url") for number in range(50)]
    connected = [networks.names.find(f"connected-{number}.example", 80) for number in range(20)]
    asking = [asyncio.create_task(name) for name in (*checked, *connected)]
    try:
        async with asyncio.timeout(20):
            [(*_, found)] = await networks.names.find("quick.example", 80)
        assert found == ("8.8.8.8", 80)
    finally:
        go_on.set()
        await asyncio.gather(*asking)


async def test_a_name_that_is_none_is_asked_for_again() -> None:
    names = Names()
    for _ in range(2):
        with pytest.raises(OSError, match=r".+"):
            await names.find("n8n.invalid", 80)

"""Clients that resolve names in ways of their own: the C libraries, Go, nslookup, kdig with its options."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import pytest
from tests.integration import resolver_worlds
from tests.integration.debian import program
from tests.integration.names_stage import private_network, run, run_with_files
from tests.integration.resolver_worlds import BEFORE, OURS, Names

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

GO_PROGRAM = """package main

import ("context"; "fmt"; "net"; "os"; "sort")

func main() {
	resolver := &net.Resolver{PreferGo: true}
	addresses, err := resolver.LookupHost(context.Background(), os.Args[1])
	if err != nil { fmt.Println("error:", err); return }
	sort.Strings(addresses)
	for _, address := range addresses { fmt.Println(address) }
}
"""
C_PROGRAM = """#include <netdb.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    struct addrinfo hints, *found, *each;
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    int problem = getaddrinfo(argv[1], 0, &hints, &found);
    if (problem) { printf("error: %s\\n", gai_strerror(problem)); return 0; }
    for (each = found; each; each = each->ai_next) {
        char text[64];
        if (each->ai_family == AF_INET)
            inet_ntop(AF_INET, &((struct sockaddr_in *)each->ai_addr)->sin_addr, text, sizeof text);
        else
            inet_ntop(AF_INET6, &((struct sockaddr_in6 *)each->ai_addr)->sin6_addr, text, sizeof text);
        puts(text);
    }
    return 0;
}
"""
TABLE = [
    ("web", ["10.96.0.10"]),
    ("web.default", ["10.96.0.11"]),
    ("web.shop.svc", ["10.96.0.10"]),
    ("web.shop.svc.cluster.local", ["10.96.0.10"]),
    ("both", ["10.96.0.12", "fd00:10:96::12"]),
    ("ext", ["10.96.0.11"]),
    ("db", ["10.244.1.2", "10.244.1.3", "10.244.2.4"]),
    ("pkg.go.dev", ["192.0.2.2"]),
    ("printer", ["192.0.2.3"]),
    ("example.com", ["192.0.2.1", "2001:db8::1"]),
    ("nothing", []),
    ("nothing.shop.svc.cluster.local", []),
]


@dataclass
class Host:
    """A host whose resolv.conf names our server."""

    names: Names
    conf: Path

    async def run(self, *argv: str) -> str:
        return await run_with_files({"/etc/resolv.conf": self.conf}, *argv)

    async def addresses(self, *argv: str) -> list[str]:
        lines = (await self.run(*argv)).split("\n")
        return sorted({line for line in lines if re.fullmatch(r"[0-9a-f.:]+", line)})


@pytest.fixture(scope="module")
def built() -> Path:
    """Where the programs are kept between runs: Go builds its whole library for the first one."""
    sources = hashlib.sha256((GO_PROGRAM + C_PROGRAM).encode()).hexdigest()[:16]
    here = Path(platformdirs.user_cache_dir("inroad-tests")) / f"clients-{sources}"
    here.mkdir(parents=True, exist_ok=True)
    return here


@pytest.fixture
def namespaces():
    with private_network():
        resolver_worlds.network()
        yield


@pytest.fixture
async def host(namespaces: None, tmp_path: Path) -> AsyncIterator[Host]:
    async with resolver_worlds.names(tmp_path, ((BEFORE, 53),)) as served:
        served.server.configure(served.policy("default", "shop", "dev"))
        conf = tmp_path / "resolv.conf"
        conf.write_text(f"nameserver {OURS}\noptions timeout:2\n")
        yield Host(served, conf)


@pytest.mark.parametrize(("name", "expected"), TABLE)
async def test_glibc(host: Host, name, expected):
    said = await host.run("getent", "ahosts", name)
    assert sorted({line.split()[0] for line in said.splitlines()}) == expected


@pytest.mark.parametrize(
    "options", ["search shop\noptions ndots:5", "search lan.example", "options edns0 trust-ad"]
)
async def test_glibc_with_other_options(host: Host, options):
    host.conf.write_text(f"nameserver {OURS}\n{options}\n")
    for name, expected in TABLE:
        said = await host.run("getent", "ahosts", name)
        assert sorted({line.split()[0] for line in said.splitlines()}) == expected, (options, name)


@pytest.fixture
async def musl(built: Path) -> list[str]:
    """A program linked against Debian's musl, by the machine's compiler and musl's loader."""
    compiler = shutil.which("gcc") or pytest.skip("needs a C compiler")
    loader, _ = program("musl", f"lib/ld-musl-{os.uname().machine}.so.1")
    binary = built / "lookup"
    if not binary.exists():
        source = built / "lookup.c"
        source.write_text(C_PROGRAM)
        # Only symbols that both libraries have, so the one's headers serve for the other's loader.
        said = await run(
            compiler, "-O1", "-fno-stack-protector", "-U_FORTIFY_SOURCE", "-nostartfiles", "-nodefaultlibs",
            "-Wl,-e,begin", "-Wl,--unresolved-symbols=ignore-all", "-o", str(binary), str(source),
            str(_start(built)), loader,
        )  # fmt: skip
        assert binary.exists(), said
    return [loader, str(binary)]


def _start(here: Path) -> Path:
    """What crt1.o does: hand the arguments over to the C library."""
    source = here / "start.c"
    source.write_text(
        "int main(int, char **);\n"
        "int __libc_start_main(int (*)(int, char **), int, char **, void *, void *, void *);\n"
        "__attribute__((used)) void begin_c(long *p) {\n"
        "    __libc_start_main(main, (int)p[0], (char **)(p + 1), 0, 0, 0);\n}\n"
        "#if defined(__x86_64__)\n"
        '__asm__(".globl begin\\nbegin: xor %ebp,%ebp\\nmov %rsp,%rdi\\nand $-16,%rsp\\ncall begin_c\\n");\n'
        "#else\n"
        '__asm__(".globl begin\\nbegin: mov x29,#0\\nmov x0,sp\\nb begin_c\\n");\n'
        "#endif\n"
    )
    return source


async def test_musl(host: Host, musl):
    for name, expected in TABLE:
        assert await host.addresses(*musl, name) == expected, name


@pytest.fixture
async def go(built: Path) -> str:
    compiler = shutil.which("go") or shutil.which("/usr/local/go/bin/go") or pytest.skip("needs Go")
    binary = built / "lookup-go"
    if not binary.exists():
        source = built / "lookup.go"
        source.write_text(GO_PROGRAM)
        env = ["env", "CGO_ENABLED=0", f"GOCACHE={built}/go-cache"]
        said = await run(*env, compiler, "build", "-o", str(binary), str(source), timeout=110)
        assert binary.exists(), said
    return str(binary)


async def test_gos_own_resolver(host: Host, go):
    for name, expected in TABLE:
        assert await host.addresses(go, name) == expected, name


async def test_nslookup(host: Host):
    for name, expected in TABLE:
        said = (await host.run("nslookup", name)).partition("\n\n")[2]
        found = sorted(set(re.findall(r"^Address: (\S+)$", said, re.MULTILINE)))
        assert found == expected, said
    said = await host.run("nslookup", OURS)
    assert "inroad-dns.cluster.local" in said


@pytest.mark.parametrize(
    "options",
    [
        ["+edns=0", "+bufsize=512"],
        ["+nsid", "+subnet=192.0.2.0/24"],
        ["+cookie"],
        ["+padding=128"],
        ["+dnssec"],
        ["+tcp", "+keepopen"],
        ["+noedns"],
        ["+ednsopt=65001:c0ffee"],
        ["+norec"],
        ["+cdflag"],
    ],
    ids=" ".join,
)
async def test_kdig_with_edns_options(host: Host, options):
    kdig, env = program("knot-dnsutils", "usr/bin/kdig")
    libraries = f"LD_LIBRARY_PATH={env['LD_LIBRARY_PATH']}"
    for name in ("web.shop.svc.cluster.local", "both.shop.svc.cluster.local"):
        said = await host.run("env", libraries, kdig, f"@{OURS}", "+short", *options, name, "A")
        assert said.split() == [dict(TABLE)[name.split(".")[0]][0]], said

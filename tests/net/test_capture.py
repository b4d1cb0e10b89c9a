"""What is captured, what goes on as before, and what does not leave the pod."""

import time
import unittest

from world import (
    AGENT,
    EXCEPTIONS,
    FAMILIES,
    NODE,
    OTHER_RESOLVER,
    POD,
    PROBE,
    PYTHON,
    RESOLVER,
    ROOT,
    SERVER,
    SIDECAR,
    SKIPPED,
    SKIPPED_PORT,
    Pod,
    WorldTest,
    run,
    said,
)

NOBODY = 65534


def end(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class Capture(WorldTest):
    def test_tcp_of_every_user_to_every_port_goes_to_the_sidecar(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        pod.sidecar()
        for family in FAMILIES:
            for uid in [AGENT, ROOT, NOBODY]:
                for port in [1, 22, 53, 80, 443, 853, 15101, 65535]:
                    told = pod.act("tcp", SERVER[family], port, uid=uid)
                    self.assertEqual(told, f"captured {end(SERVER[family], port)}", f"user {uid}")
        self.assertEqual(pod.left(), [])

    def test_the_sidecars_own_connections_are_not_captured(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        pod.sidecar()
        for family in FAMILIES:
            self.assertEqual(pod.act("tcp", SERVER[family], 443, uid=SIDECAR), f"outside {SERVER[family]}")
            self.assertEqual(pod.act("udp", SERVER[family], 9999, uid=SIDECAR), "outside")
            self.assertEqual(pod.act("ping", SERVER[family], uid=SIDECAR), "answered")

    def test_without_the_sidecar_nothing_is_reached(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        for family in FAMILIES:
            self.assertEqual(pod.act("tcp", SERVER[family], 443), "ECONNREFUSED")
        self.assertEqual(pod.left(), [])

    def test_who_comes_by_itself_was_going_nowhere_else(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        pod.sidecar()
        for address in ["127.0.0.1", "::1"]:
            self.assertEqual(pod.act("tcp", address, 15103), "captured none")

    def test_multipath_tcp_is_tcp(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        pod.sidecar()
        for family in FAMILIES:
            self.assertEqual(pod.act("tcp", SERVER[family], 443, 262), f"captured {end(SERVER[family], 443)}")

    def test_another_users_number_in_a_namespace_of_ones_own_is_not_the_sidecars(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        pod.sidecar()
        program = [PYTHON, "-I", pod.tools / "agent.py", "tcp", SERVER[4], 443]
        unshare = ["unshare", "--user", f"--map-user={SIDECAR}"]
        done = pod.start(*unshare, *program)
        self.assertEqual(done.communicate()[0].strip(), f'"captured {SERVER[4]}:443"')

    def test_a_pod_with_users_of_its_own_is_captured_by_their_numbers(self) -> None:
        pod = Pod(self.tools, own_users=True)
        self.addCleanup(pod.end)
        pod.init_net(*EXCEPTIONS)
        pod.sidecar("--self-test")
        for family in FAMILIES:
            for uid in [AGENT, ROOT]:
                self.assertEqual(pod.act("tcp", SERVER[family], 443, uid=uid), f"captured {end(SERVER[family], 443)}")
            self.assertEqual(pod.act("udp", SERVER[family], 443), "EPERM")
            self.assertEqual(pod.act("tcp", SERVER[family], 443, uid=SIDECAR), f"outside {SERVER[family]}")

    def test_inside_the_pod_nothing_changes(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        pod.sidecar()
        pod.serve(8080)
        own = pod.root("ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link").stdout.split()
        link_local = f"{own[own.index('inet6') + 1].split('/')[0]}%eth0"
        for address in ["127.0.0.1", "127.1.2.3", "::1", "0.0.0.0", POD[4], POD[6], link_local]:
            for what in ["tcp", "udp"]:
                with self.subTest(f"{what} {address}"):
                    self.assertEqual(pod.act(what, address, 8080), "inside")


class Guard(WorldTest):
    def test_dns_goes_to_the_given_resolvers_and_no_others(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        pod.sidecar()
        for family in FAMILIES:
            self.assertEqual(pod.act("udp", RESOLVER[family], 53), "outside")
            self.assertEqual(pod.act("tcp", RESOLVER[family], 53), f"outside {RESOLVER[family]}")
            self.assertEqual(pod.act("udp", OTHER_RESOLVER[family], 53), "EPERM")
            self.assertEqual(pod.act("tcp", OTHER_RESOLVER[family], 53), f"captured {end(OTHER_RESOLVER[family], 53)}")
            self.assertEqual(pod.act("udp", RESOLVER[family], 443), "EPERM")
            self.assertEqual(pod.act("tcp", RESOLVER[family], 853), f"captured {end(RESOLVER[family], 853)}")
        allowed = [f"{what} {RESOLVER[family]} 53" for what in ["tcp", "udp"] for family in [4, 6]]
        self.assertEqual(pod.left(), sorted(allowed))

    def test_whatever_is_not_captured_is_refused_at_once(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        for family in FAMILIES:
            for uid in [AGENT, ROOT]:
                for port in [443, 123, 9999]:
                    self.assertEqual(pod.act("udp", SERVER[family], port, uid=uid), "EPERM", f"user {uid}")
                # UDP-Lite.
                self.assertEqual(pod.act("udp", SERVER[family], 443, 136, uid=uid), "EPERM", f"user {uid}")
                # On IPv6 the kernel tells it to who waits, not to who sends.
                refused = {4: "EPERM", 6: "EACCES"}[family]
                self.assertEqual(pod.act("ping", SERVER[family], uid=uid), refused, f"user {uid}")
        self.assertEqual(pod.left(), [])

    def test_the_link_is_no_way_out_either(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        pod.sidecar()
        for address in [NODE[4], NODE[6], "10.20.0.255", "255.255.255.255", "224.0.0.251", "ff02::fb%eth0"]:
            self.assertEqual(pod.act("udp", address, 5353), "EPERM", address)
        # The node itself is not the pod.
        for family in FAMILIES:
            self.assertEqual(pod.act("tcp", NODE[family], 443), f"captured {end(NODE[family], 443)}")
        self.assertEqual(pod.left(), [])

    def test_raw_packets_are_guarded_too(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        for family in FAMILIES:
            # TCP that no socket knows, UDP, SCTP, an experiment.
            for protocol in [6, 17, 132, 253]:
                self.assertEqual(pod.act("raw", SERVER[family], protocol, uid=ROOT, capability="net_raw"), "EPERM")
        self.assertEqual(pod.left(), [])

    def test_a_forged_source_makes_no_connection_from_outside(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        for to in [POD[6], PROBE[6], SERVER[6]]:
            self.assertEqual(pod.act("forge", POD[6], SERVER[6], to), "EPERM EPERM", to)
        self.assertEqual(pod.left(), [])

    def test_what_the_kernel_sends_for_others_has_no_owner_and_does_not_leave(self) -> None:
        """Some kinds of sockets send from another that the kernel opens; a tunnel does so, too, and is easily made."""
        pod = self.pod(*EXCEPTIONS)
        remote = ["remote", SERVER[4], "dstport", 9999, "dev", "eth0"]
        pod.root("ip", "link", "add", "tunnel0", "type", "vxlan", "id", 7, *remote)
        pod.root("ip", "link", "set", "tunnel0", "up")
        pod.root("ip", "address", "add", "10.99.0.1/24", "dev", "tunnel0")
        # Now the kernel looks for a neighbour, at the tunnel's other end.
        self.assertEqual(pod.act("raw", "10.99.0.2", 253, uid=SIDECAR, capability="net_raw"), "sent")
        self.assertEqual(pod.left(), [])

    def test_ports_and_networks_that_are_skipped(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        pod.sidecar()
        for family in FAMILIES:
            self.assertEqual(pod.act("tcp", SERVER[family], SKIPPED_PORT), f"outside {SERVER[family]}")
            self.assertEqual(pod.act("udp", SERVER[family], SKIPPED_PORT), "outside")
            self.assertEqual(pod.act("tcp", SKIPPED[family], 443), f"outside {SKIPPED[family]}")
            self.assertEqual(pod.act("udp", SKIPPED[family], 9999), "outside")
            self.assertEqual(pod.act("ping", SKIPPED[family]), "answered")

    def test_connections_from_outside_are_served_as_before(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        pod.sidecar()
        pod.serve(8080)
        for family in FAMILIES:
            agent = [PYTHON, "-I", pod.tools / "agent.py"]
            self.assertEqual(run(*agent, "tcp", POD[family], 8080).stdout, '"inside"\n')
            self.assertEqual(run(*agent, "udp", POD[family], 8080).stdout, '"inside"\n')
            self.assertEqual(run(*agent, "ping", POD[family]).stdout, '"answered"\n')
            # What the kernel says where nobody listens.
            self.assertEqual(run(*agent, "tcp", POD[family], 8081).stdout, '"ECONNREFUSED"\n')

    def test_nothing_passes_through_the_pod(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        pod.root("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")
        for family, beyond in [(4, "192.0.2.77"), (6, "2001:db8:9::77")]:
            run("ip", f"-{family}", "route", "add", beyond, "via", POD[family])
            self.addCleanup(run, "ip", f"-{family}", "route", "delete", beyond, check=False)
            self.assertEqual(run(PYTHON, "-I", pod.tools / "agent.py", "raw", beyond, 253).stdout, '"sent"\n')
            self.assertEqual(pod.left(), [])


class Alive(WorldTest):
    """The rules leave the network alive."""

    def test_neighbours_find_each_other(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        pod.serve(8080)
        for family in FAMILIES:
            for _ in range(2):
                pod.root("ip", f"-{family}", "neighbour", "flush", "dev", "eth0")
                self.assertEqual(pod.act("tcp", SERVER[family], 443, uid=SIDECAR), f"outside {SERVER[family]}")
                run("ip", f"-{family}", "neighbour", "flush", "dev", pod.interface)
                said = run(PYTHON, "-I", pod.tools / "agent.py", "tcp", POD[family], 8080).stdout
                self.assertEqual(said, '"inside"\n')

    def test_routers_hear_of_groups(self) -> None:
        for group in ["239.1.2.3", "ff05::1:3"]:
            pod = self.pod(*EXCEPTIONS)
            pod.left()
            before = pod.wire.memberships
            self.assertEqual(pod.act("join", group), "joined")
            with pod.wire.news:
                self.assertTrue(pod.wire.news.wait_for(lambda: pod.wire.memberships > before, 10), group)
            pod.end()

    def test_what_a_closed_connection_has_still_to_send_is_sent(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        amount = 4 << 20
        before = len(self.outside.received)
        # Slow enough that most of it is still to be sent when its process is gone.
        pod.root("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "80mbit", "burst", "64k", "limit", "9m")
        self.assertEqual(pod.act("pour", SERVER[4], 443, amount, uid=SIDECAR), "closed")
        deadline = time.monotonic() + 20
        arrived = 0
        while arrived != amount and time.monotonic() < deadline:
            arrived = sum(map(len, list(self.outside.received.values())[before:]))
            time.sleep(0.02)
        self.assertEqual(arrived, amount)

    def test_running_connections_go_on_when_the_rules_are_written_again(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        pod.sidecar()
        pod.serve(8080)
        captured = pod.agent("hold", SERVER[4], 443)
        captured6 = pod.agent("hold", SERVER[6], 443)
        own = pod.agent("hold", SERVER[4], 443, uid=SIDECAR)
        allowed = pod.agent("hold", SERVER[4], SKIPPED_PORT)
        for process, first in [
            (captured, f"captured {SERVER[4]}:443"),
            (captured6, f"captured [{SERVER[6]}]:443"),
            (own, f"outside {SERVER[4]}"),
            (allowed, f"outside {SERVER[4]}"),
        ]:
            self.assertEqual(process.stdout.readline().strip(), first)
        for text in ["first", "second"]:
            pod.init_net(*EXCEPTIONS)
            for process in [captured, captured6, own, allowed]:
                self.assertEqual(said(process, text), text)

    def test_a_connection_that_is_allowed_no_more_ends(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        allowed = pod.agent("hold", SERVER[4], SKIPPED_PORT)
        allowed.stdout.readline()
        self.assertEqual(said(allowed, "before"), "before")
        pod.init_net(EXCEPTIONS[0])
        self.assertEqual(said(allowed, "after"), "ECONNRESET")

    def test_a_connection_from_before_the_rules_ends(self) -> None:
        pod = self.pod()
        early = [pod.agent("hold", SERVER[family], 443) for family in [4, 6]]
        for process in early:
            process.stdout.readline()
            self.assertEqual(said(process, "before"), "before")
        pod.init_net(*EXCEPTIONS)
        before = dict(self.outside.received)
        for process in early:
            self.assertEqual(said(process, "after"), "ECONNRESET")
        self.assertEqual(self.outside.received, before)


if __name__ == "__main__":
    unittest.main()

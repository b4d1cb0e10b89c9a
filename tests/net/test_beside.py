"""Beside what else writes nat rules: kube-proxy on the node, a mesh or a CNI plugin in the pod."""

import unittest

from world import AGENT, EXCEPTIONS, FAMILIES, NODE, SERVER, SIDECAR, Pod, WorldTest, run

SERVICE = {4: "10.96.7.7", 6: "fd96::7"}
MESH = 15001


def nft_service(hook: str) -> str:
    """As kube-proxy in nftables mode sends a Service's connections to an endpoint."""
    return "".join(
        f"table {ip} kube-proxy {{ chain {hook} {{ type nat hook {hook} priority -100; policy accept;"
        f" {ip} daddr {SERVICE[family]} tcp dport 443 dnat to {to}:8443; }}; }}\n"
        for family, ip, to in [(4, "ip", SERVER[4]), (6, "ip6", f"[{SERVER[6]}]")]
    )


def iptables_service(chain: str) -> list[list[str]]:
    """The same in iptables mode."""
    return [
        [
            *[command, "--table", "nat", "--append", chain, "--protocol", "tcp", "--destination", SERVICE[family]],
            *["--dport", "443", "--jump", "DNAT", "--to-destination", to],
        ]
        for command, family, to in [
            ("iptables-nft", 4, f"{SERVER[4]}:8443"),
            ("ip6tables-nft", 6, f"[{SERVER[6]}]:8443"),
        ]
    ]


class KubeProxy(WorldTest):
    """It writes into the node's network, not into the pod's: a captured connection is made again, and led there."""

    def services_are_reached(self, pod: Pod) -> None:
        pod.sidecar()
        for family in FAMILIES:
            address = SERVICE[family] if family == 4 else f"[{SERVICE[family]}]"
            self.assertEqual(pod.act("tcp", SERVICE[family], 443), f"captured {address}:443")
            self.assertEqual(pod.act("tcp", SERVICE[family], 443, uid=SIDECAR), f"outside {SERVER[family]}")

    def test_nftables_mode(self) -> None:
        run("nft", "-f", "-", stdin=nft_service("prerouting"))
        self.addCleanup(run, "nft", "flush", "ruleset")
        self.services_are_reached(self.pod(*EXCEPTIONS))

    def test_iptables_mode(self) -> None:
        self.addCleanup(run, "nft", "flush", "ruleset")
        for command in iptables_service("PREROUTING"):
            run(*command)
        self.services_are_reached(self.pod(*EXCEPTIONS))

    def test_the_same_rules_in_the_pod_do_not_lead_past_the_sidecar(self) -> None:
        for mode in ["nftables", "iptables"]:
            for first in [True, False]:
                with self.subTest(mode=mode, postern_first=first):
                    pod = self.pod(*EXCEPTIONS) if first else self.pod()
                    if mode == "nftables":
                        pod.nft(nft_service("output"))
                    else:
                        for command in iptables_service("OUTPUT"):
                            pod.root(*command)
                    if not first:
                        pod.init_net(*EXCEPTIONS)
                    self.services_are_reached(pod)
                    pod.end()


class Mesh(WorldTest):
    def mesh(self, pod: Pod) -> None:
        """As Istio's init container writes it, and a listener in the place of its proxy."""
        for command in ["iptables-nft", "ip6tables-nft"]:
            for rule in [
                "--new-chain ISTIO_OUTPUT",
                "--append OUTPUT --jump ISTIO_OUTPUT",
                "--append ISTIO_OUTPUT --match owner --uid-owner 1337 --jump RETURN",
                f"--append ISTIO_OUTPUT --protocol tcp --jump REDIRECT --to-ports {MESH}",
            ]:
                pod.root(command, "--table", "nat", *rule.split())
        pod.serve(MESH)

    def test_the_agents_connections_are_the_sidecars_and_its_own_are_the_meshs(self) -> None:
        for first in [True, False]:
            with self.subTest(postern_first=first):
                pod = self.pod(*EXCEPTIONS) if first else self.pod()
                self.mesh(pod)
                if not first:
                    pod.init_net(*EXCEPTIONS)
                pod.sidecar("--self-test")
                self.assertEqual(pod.act("tcp", SERVER[4], 443), f"captured {SERVER[4]}:443")
                self.assertEqual(pod.act("tcp", SERVER[6], 443), f"captured [{SERVER[6]}]:443")
                for family in FAMILIES:
                    self.assertEqual(pod.act("tcp", SERVER[family], 443, uid=SIDECAR), "inside")
                self.assertEqual(pod.left(), [])
                pod.end()

    def test_whoever_comes_before_us_and_leads_elsewhere_is_stopped_by_the_guard(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        pod.sidecar()
        pod.nft(
            "table inet early { chain c { type nat hook output priority -150;"
            f" meta nfproto ipv4 tcp dport 443 dnat ip to {NODE[4]}:8443;"
            f" meta nfproto ipv6 tcp dport 443 dnat ip6 to [{NODE[6]}]:8443; }}; }}"
        )
        for family in FAMILIES:
            self.assertEqual(pod.act("tcp", SERVER[family], 443, uid=AGENT), "ECONNREFUSED")
        self.assertEqual(pod.left(), [])


if __name__ == "__main__":
    unittest.main()

"""The sidecar's self-test: it passes when its pod is captured, by itself, and for no other reason."""

import unittest

from world import AGENT, EXCEPTIONS, PROBE, REDIRECT, WorldTest


class SelfTest(WorldTest):
    def outcome(self, pod: object, *arguments: str) -> str:
        return pod.sidecar("--self-test", *arguments).stdout.readline().strip()

    def test_both_families_are_captured(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        self.assertEqual(self.outcome(pod), "captured v4=true v6=true")
        self.assertEqual(pod.left(), [])

    def test_a_family_without_a_route_needs_no_capture(self) -> None:
        for family, captured in [(4, "captured v4=true v6=false"), (6, "captured v4=false v6=true")]:
            pod = self.pod(*EXCEPTIONS, families=(family,))
            self.assertEqual(self.outcome(pod), captured)
            pod.end()

    def test_without_any_route_nothing_is_proven(self) -> None:
        pod = self.pod(*EXCEPTIONS, families=())
        self.assertIn("this pod has no route out", self.outcome(pod))

    def test_without_the_rules_it_fails(self) -> None:
        pod = self.pod()
        # As a router does that knows no such network: that must not be taken for having no route.
        pod.nft("table inet r { chain c { type filter hook output priority 0; tcp dport 15103 reject with icmpx no-route; }; }")
        self.assertRegex(self.outcome(pod), "^connections of this pod are not captured .*postern-init")

    def test_with_one_family_alone_it_fails(self) -> None:
        for family, rest in [("ip", PROBE[4]), ("ip6", PROBE[6])]:
            pod = self.pod(*EXCEPTIONS)
            pod.nft(f"insert rule inet postern capture {family} daddr {rest} return")
            pod.nft(f"insert rule inet postern guard {family} daddr {rest} reject with icmpx host-unreachable")
            self.assertRegex(self.outcome(pod), "^connections of this pod are not captured")
            pod.end()

    def test_without_a_listener_it_fails(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        self.assertRegex(self.outcome(pod, "--no-v6"), r"^connections of this pod are not captured \(\[2001.*refused")

    def test_another_listener_is_not_taken_for_ours(self) -> None:
        """Not even one that passes the question on to ours, which answers everybody."""
        pod = self.pod(*EXCEPTIONS)
        foreign = pod.agent("relay", "::1", PROBE[4], REDIRECT, uid=AGENT)
        self.assertEqual(foreign.stdout.readline(), "listening\n")
        self.assertRegex(self.outcome(pod, "--no-v6"), r"^connections of this pod go to a process that is not this sidecar")
        # The relay works: it is asked, and gets an answer.
        self.assertIsNone(foreign.poll())

    def test_without_the_guard_it_fails(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        pod.nft("flush chain inet postern guard")
        pod.nft("add rule inet postern guard accept")
        self.assertRegex(self.outcome(pod), "^packets that are not captured may leave this pod .*it was sent")


if __name__ == "__main__":
    unittest.main()

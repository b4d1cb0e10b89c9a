"""The table: what is written is what is printed and what the kernel has, all or nothing, and seen when it is not."""

import os
import random
import re
import unittest

from world import EXCEPTIONS, ROOT, SERVER, Pod, WorldTest, run, user

# Each leaves another table than init-net wrote.
CHANGES = {
    "a rule more": ("add rule inet postern guard accept", "chain guard has 20 rules, not 19"),
    "a rule before": ("insert rule inet postern guard counter accept", "chain guard: rule 1 is not `meta skuid != 64321"),
    "a rule less": ("delete rule inet postern capture handle HANDLE", "chain capture: rule 3 is not `meta skuid 64321"),
    "another rule": ("replace rule inet postern capture handle HANDLE meta skuid 1000 return", "chain capture: rule 3"),
    "no rules": ("flush chain inet postern guard", "chain guard: rule 1 is not"),
    "another policy": ("add chain inet postern guard { policy accept; }", "chain guard has another type, hook, priority"),
    "a foreign chain": ("add chain inet postern mine", "chain mine is not ours"),
    "no chain": ("delete chain inet postern transit", "chain transit is missing"),
    "no table": ("delete table inet postern", "there is none"),
    "a sleeping table": ("add table inet postern { flags dormant; }", "it is switched off (dormant)"),
}


def instructions(pod: Pod) -> str:
    """The rules as the kernel has them, without their numbers."""
    text = pod.root("nft", "--debug=netlink", "list", "table", "inet", "postern").stdout
    return re.sub(r"^(inet postern \w+)( \d+)+ *$", r"\1", text, flags=re.MULTILINE)


def bare(printed: str) -> str:
    """Without comments, and without what makes nft replace the table."""
    lines = [line for line in printed.splitlines(keepends=True) if not line.lstrip().startswith("#")]
    return "".join(lines[2:])


def some_exceptions(seed: int) -> list[str]:
    draw = random.Random(seed)

    def network() -> str:
        bits, width = (draw.randint(1, 32), 32) if draw.random() < 0.5 else (draw.randint(1, 128), 128)
        number = draw.getrandbits(bits) << (width - bits)
        if width == 32:
            return f"{'.'.join(str(byte) for byte in number.to_bytes(4, 'big'))}/{bits}"
        return ":".join(f"{number >> at & 0xFFFF:x}" for at in range(112, -1, -16)) + f"/{bits}"

    resolvers = [f"10.{draw.randrange(256)}.0.{draw.randrange(256)}", f"[fd{draw.randrange(10, 99)}::1]:5353"]
    ports = draw.sample(range(1, 65536), draw.randrange(64))
    return [
        f"--resolvers={','.join(resolvers)}",
        f"--skip-ports={','.join(map(str, ports))}",
        f"--skip-cidrs={','.join(network() for _ in range(draw.randrange(64)))}",
    ]


class Table(WorldTest):
    def test_nft_shows_what_is_printed(self) -> None:
        pod = self.pod()
        for seed in range(12):
            arguments = some_exceptions(seed) if seed else EXCEPTIONS
            with self.subTest(seed=seed):
                pod.init_net(*arguments)
                written, ours = pod.table(), instructions(pod)
                printed = pod.init_net("--print", *arguments).stdout
                self.assertEqual(bare(printed), written)
                # And what nft makes of it is the same to the kernel.
                pod.nft(printed)
                self.assertEqual(instructions(pod), ours)
                pod.init_net("--verify", *arguments)

    def test_the_longest_lists_go_into_one_transaction(self) -> None:
        pod = self.pod()
        longest = [
            f"--resolvers={','.join(f'fd00::{number}' for number in range(16))}",
            f"--skip-ports={','.join(map(str, range(1, 65)))}",
            f"--skip-cidrs={','.join(f'fd00:{number}::/33' for number in range(1, 65))}",
        ]
        self.assertIn("16 resolvers, 64 ports, 64 networks", pod.init_net(*longest).stdout)
        self.assertEqual(pod.table(), bare(pod.init_net("--print", *longest).stdout))

    def test_writing_twice_is_writing_once(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        once = pod.table()
        told = pod.init_net(*EXCEPTIONS).stdout
        self.assertEqual(pod.table(), once)
        self.assertEqual(
            told,
            "postern init-net: table inet postern was written and read back: TCP of users other than 64321 goes to"
            " port 15103; let through: 2 resolvers, 1 port, 2 networks\n",
        )

    def test_another_table_of_the_name_is_replaced(self) -> None:
        pod = self.pod()
        pod.nft("table inet postern { set s { type ipv4_addr; }; chain guard { ip daddr @s accept; }; chain old { }; }")
        pod.init_net(*EXCEPTIONS)
        self.assertEqual(pod.table(), bare(pod.init_net("--print", *EXCEPTIONS).stdout))

    def test_tables_of_others_are_left_alone(self) -> None:
        pod = self.pod()
        pod.nft("table ip postern { chain c { type filter hook input priority 0; accept; }; }\ntable inet other { chain guard { }; }")
        before = pod.root("nft", "list", "ruleset").stdout
        pod.init_net(*EXCEPTIONS)
        self.assertEqual(pod.root("nft", "list", "ruleset").stdout, before + pod.table())

    def test_the_variables_are_those_of_the_init_container(self) -> None:
        pod = self.pod()
        variables = [f"POSTERN_{argument.removeprefix('--').replace('-', '_', 1)}" for argument in EXCEPTIONS]
        variables = [f"{name.upper()}={value}" for name, value in (variable.split("=") for variable in variables)]
        run(*pod.inside(), "env", *variables, *user(ROOT, "net_admin"), pod.tools / "postern", "init-net")
        pod.init_net("--verify", *EXCEPTIONS)


class Failure(WorldTest):
    def test_what_the_kernel_does_not_take_changes_nothing(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        before = pod.table()
        told = run(*pod.inside(), *user(ROOT, "net_admin"), pod.tools / "redirect", "bad-batch").stdout
        self.assertRegex(told, r"^chain transit: meta l4proto tcp redirect to :15103: .*; this kernel lacks a part")
        self.assertEqual(pod.table(), before)
        fresh = self.pod()
        run(*fresh.inside(), *user(ROOT, "net_admin"), fresh.tools / "redirect", "bad-batch")
        self.assertEqual(fresh.root("nft", "list", "ruleset").stdout, "")

    def test_every_foreign_change_is_seen_and_mended(self) -> None:
        pod = self.pod()
        for name, (change, told) in CHANGES.items():
            with self.subTest(name):
                pod.init_net(*EXCEPTIONS)
                listing = pod.root("nft", "--handle", "list", "chain", "inet", "postern", "capture").stdout
                handle = re.search(r"meta skuid 64321 return # handle (\d+)", listing)[1]
                pod.nft(change.replace("HANDLE", handle))
                done = pod.init_net("--verify", *EXCEPTIONS, check=False)
                self.assertEqual((done.returncode, done.stdout), (1, ""))
                self.assertIn(told, done.stderr)
        pod.init_net(*EXCEPTIONS)
        pod.init_net("--verify", *EXCEPTIONS)

    def test_other_exceptions_are_another_table(self) -> None:
        pod = self.pod(*EXCEPTIONS)
        done = pod.init_net("--verify", "--resolvers=10.20.1.54", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("chain capture: rule 5 is not `ip daddr 10.20.1.54 tcp dport 53 return`", done.stderr)

    def test_without_the_capability_it_says_so(self) -> None:
        pod = self.pod()
        for uid, capability in [(ROOT, ""), (ROOT, "net_raw"), (1000, "")]:
            done = run(*pod.inside(), *user(uid, capability), pod.tools / "postern", "init-net", *EXCEPTIONS, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn("the capability NET_ADMIN is missing", done.stderr)
        self.assertEqual(pod.root("nft", "list", "ruleset").stdout, "")

    def test_a_table_that_another_program_owns_is_not_taken(self) -> None:
        pod = self.pod()
        owner = pod.privileged("nft", "--interactive")
        owner.stdin.write("add table inet postern { flags owner; }\nlist tables\n")
        owner.stdin.flush()
        while "table inet postern" not in owner.stdout.readline():
            pass
        done = pod.init_net(*EXCEPTIONS, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("another program owns this table", done.stderr)

    def test_the_network_of_the_machine_is_refused(self) -> None:
        outer = os.environ["POSTERN_OUTER_NET"]
        inside = ["nsenter", f"--net={outer}"]
        if run(*inside, "test", "-e", "/proc/sys/net/core/netdev_max_backlog", check=False).returncode != 0:
            self.skipTest("these tests run in a container, whose network is not the machine's: run them on the machine")
        # Without the capability, so that a mistake harms nothing.
        done = run(*inside, *user(ROOT), self.tools / "postern", "init-net", *EXCEPTIONS, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("this is the network of the machine itself, not of a pod", done.stderr)

    def test_a_wrong_value_is_named_by_its_place(self) -> None:
        pod = self.pod()
        done = pod.init_net("--resolvers=10.0.0.1,dns", "--skip-ports=0", "--skip-cidrs=10.0.0.1/8", check=False)
        self.assertEqual(done.returncode, 2)
        for place in ["--resolvers[1]", "--skip-ports[0]", "--skip-cidrs[0]"]:
            self.assertIn(f"command line: {place}: expected ", done.stderr)
        self.assertEqual(pod.root("nft", "list", "ruleset").stdout, "")


if __name__ == "__main__":
    unittest.main()

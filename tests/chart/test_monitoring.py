"""Rules, dashboard and scrape configuration ask for what there is, and alerts fire when they should."""

import json
import re
import tempfile
import unittest
from pathlib import Path
from typing import Any

import yaml
from tools import CHART, ROOT, documents, run

RULES = CHART / "files/rules.yaml"
# Labels that a scrape adds, beside those of the families.
TARGET = {"namespace", "pod"}

# A cluster in which all is well, by series: what counts stands still, as it would after a past trouble.
AGENT = 'namespace="research",pod="agent"'
GITHUB = f'{AGENT},server="github"'
BROKER = 'namespace="postern-system",pod="broker"'
CONTROLLER = 'namespace="postern-system",pod="controller"'
WELL = {
    f'postern_build_info{{{AGENT},version="0.1.0"}}': "1x1500",
    f"postern_upstream_auth_rejections_total{{{GITHUB}}}": "3x60",
    f"postern_credential_usable{{{GITHUB}}}": "1x60",
    f'postern_source_heard_timestamp_seconds{{{AGENT},source="broker"}}': "0+60x60",
    f'postern_source_connects_total{{{AGENT},source="broker",result="ok"}}': "1+1x60",
    f'postern_source_connects_total{{{AGENT},source="broker",result="rejected"}}': "2x60",
    f'postern_refusals_total{{{GITHUB},reason="tool_denied"}}': "0+1x60",
    f'postern_refusals_total{{{GITHUB},reason="credential_revoked"}}': "1x60",
    f'postern_refusals_total{{{AGENT},server="",reason="overloaded"}}': "1x60",
    f"postern_echo_masks_total{{{GITHUB}}}": "1x60",
    f"postern_credential_rotation_lag_seconds{{{GITHUB}}}": "1x60",
    f"postern_access_lines_lost_total{{{AGENT}}}": "7x60",
    f"postern_broker_session_lines_lost_total{{{BROKER}}}": "0x60",
    f"postern_admission_lines_lost_total{{{CONTROLLER}}}": "0x60",
    f"postern_broker_sessions{{{BROKER}}}": "1x1500",
    f'postern_broker_watches{{{BROKER},kind="secrets",state="heard"}}': "1x60",
    f'postern_broker_watches{{{BROKER},kind="secrets",state="denied"}}': "0x60",
    f'postern_broker_watches{{{BROKER},kind="bindings",state="lost"}}': "0x60",
    'postern_broker_binding_ready{namespace="research",pod="broker",binding="github"}': "1x60",
    f"postern_broker_leader{{{BROKER}}}": "1x60",
    'postern_broker_leader{namespace="postern-system",pod="other"}': "0x60",
    f'postern_broker_token_reviews_total{{{BROKER},result="accepted"}}': "0+1x60",
    f'postern_broker_token_reviews_total{{{BROKER},result="failed"}}': "4x60",
    f'postern_broker_certificate_expiry_timestamp_seconds{{{BROKER},certificate="server"}}': "604800x60",
    f"postern_webhook_ca_bundle_in_sync{{{CONTROLLER}}}": "1x1500",
    f'postern_webhook_certificate_expiry_timestamp_seconds{{{CONTROLLER},certificate="server"}}': "604800x60",
    f'postern_admissions_total{{{CONTROLLER},result="injected",reason=""}}': "0+1x60",
    f'postern_admissions_total{{{CONTROLLER},result="failed",reason="not_json"}}': "1x60",
    f'postern_admission_seconds_bucket{{{CONTROLLER},result="injected",le="0.1"}}': "0+1x60",
    f'postern_admission_seconds_bucket{{{CONTROLLER},result="injected",le="5"}}': "0+1x60",
    f'postern_admission_seconds_bucket{{{CONTROLLER},result="injected",le="+Inf"}}': "0+1x60",
}
# For each alert the series in which its case differs, and what else fires then. Half an hour in, something happens;
# a series that is new then stands after blanks.
NEW = "_x29 1x30"
CASES: dict[str, tuple[dict[str, str], set[str]]] = {
    "PosternUpstreamRejectsCredential": (
        {f'postern_upstream_auth_rejections_total{{{AGENT},server="jira"}}': NEW},
        set(),
    ),
    "PosternNoUsableCredential": ({f"postern_credential_usable{{{GITHUB}}}": "1x20 0x40"}, set()),
    "PosternBrokerUnheard": (
        {f'postern_source_heard_timestamp_seconds{{{AGENT},source="broker"}}': "0+60x20 1200x40"},
        set(),
    ),
    "PosternTokenRejected": (
        {'postern_source_connects_total{namespace="billing",pod="agent",source="broker",result="rejected"}': NEW},
        set(),
    ),
    "PosternWithdrawnStillCalled": (
        {f'postern_refusals_total{{{AGENT},server="jira",reason="credential_revoked"}}': NEW},
        set(),
    ),
    "PosternCredentialEchoed": ({f'postern_echo_masks_total{{{AGENT},server="jira"}}': NEW}, set()),
    "PosternSlowRotation": ({f"postern_credential_rotation_lag_seconds{{{GITHUB}}}": "1x25 90x35"}, set()),
    "PosternSidecarOverloaded": (
        {f'postern_refusals_total{{{AGENT},server="",reason="overloaded"}}': "1x29 5x31"},
        set(),
    ),
    "PosternLogLinesLost": ({f"postern_broker_session_lines_lost_total{{{BROKER}}}": "0x29 2x31"}, set()),
    "PosternVersionSkew": ({f'postern_build_info{{{BROKER},version="0.2.0"}}': "1x1500"}, set()),
    "PosternBrokerGone": ({f"postern_broker_sessions{{{BROKER}}}": "1x10 stale"}, set()),
    "PosternBrokerBlind": ({f'postern_broker_watches{{{BROKER},kind="bindings",state="lost"}}': "0x25 1x35"}, set()),
    "PosternNamespaceNotGranted": (
        {f'postern_broker_watches{{{BROKER},kind="secrets",state="denied"}}': "0x10 2x50"},
        set(),
    ),
    "PosternBindingNotServed": (
        {'postern_broker_binding_ready{namespace="research",pod="broker",binding="github"}': "1x10 0x50"},
        set(),
    ),
    "PosternNobodyWritesStatus": ({f"postern_broker_leader{{{BROKER}}}": "1x20 0x40"}, set()),
    "PosternTokenReviewsFail": (
        {f'postern_broker_token_reviews_total{{{BROKER},result="failed"}}': "4x29 6x31"},
        set(),
    ),
    "PosternBrokerCertificateEnds": (
        {f'postern_broker_certificate_expiry_timestamp_seconds{{{BROKER},certificate="server"}}': "3600x60"},
        set(),
    ),
    "PosternControllerGone": ({f"postern_webhook_ca_bundle_in_sync{{{CONTROLLER}}}": "1x10 stale"}, set()),
    "PosternWebhookUntrusted": ({f"postern_webhook_ca_bundle_in_sync{{{CONTROLLER}}}": "1x25 0x35"}, set()),
    "PosternWebhookCertificateEnds": (
        {f'postern_webhook_certificate_expiry_timestamp_seconds{{{CONTROLLER},certificate="server"}}': "3600x60"},
        set(),
    ),
    "PosternAdmissionsFail": (
        {f'postern_admissions_total{{{CONTROLLER},result="failed",reason="not_json"}}': "1x29 2x31"},
        set(),
    ),
    "PosternAdmissionsSlow": (
        {f'postern_admission_seconds_bucket{{{CONTROLLER},result="injected",le="0.1"}}': "0x60"},
        set(),
    ),
}


def scenario(name: str, differs: dict[str, str], fire: set[str]) -> dict:
    """A case for promtool: half an hour in, exactly these alerts fire; where one waits a day, a day later."""
    waits = fire == {"PosternVersionSkew"}
    firing = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(fire)]
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in {**WELL, **differs}.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": "24h1m" if waits else "30m",
                "exp_samples": firing,
            }
        ],
    }


def families() -> dict[str, tuple[str, set[str]]]:
    """What docs/metrics.md lists, which tests/docs.rs holds against the code: each family's type and labels."""
    rows = re.findall(r"^\| `(postern_\w+)` \| (\w+) \|([^|]*)\|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    return {name: (kind, set(labels.replace(",", " ").split())) for name, kind, labels in rows}


def rules() -> list[dict]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def dashboard() -> dict:
    return json.loads((CHART / "files/dashboard.json").read_text())


def queries() -> dict[str, str]:
    """Every expression that users get, by where it stands."""
    found = {f"alert {rule['alert']}": rule["expr"] for rule in rules()}
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            found[f"panel {panel['title']} {target['refId']}"] = target["expr"]
    for variable in dashboard()["templating"]["list"]:
        found[f"variable {variable['name']}"] = str(variable["query"])
    alerts = (ROOT / "docs/metrics.md").read_text().split("\n## Worth an alert\n")[1].split("\n## ")[0]
    for what, expression in re.findall(r"^\| ([^|]+) \| `(.+?)`", alerts, re.MULTILINE):
        found[f"docs/metrics.md: {what}"] = expression
    return found


class Names(unittest.TestCase):
    def test_every_query_asks_for_families_and_labels_that_there_are(self) -> None:
        known = families()
        self.assertGreater(len(known), 30)
        for place, query in queries().items():
            for name, selector in re.findall(r"\b(postern_\w+)(?:\{(.*?)\})?", query):
                with self.subTest(place=place, name=name):
                    family = re.sub(r"_(bucket|sum|count)$", "", name)
                    is_part = family != name and known.get(family, ("", set()))[0] == "histogram"
                    family = family if is_part else name
                    self.assertTrue(family in known, "no such family")
                    self.assertEqual(known[family][0] == "histogram", is_part)
                    used = set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)\s*\"", selector))
                    self.assertLessEqual(used, known[family][1] | TARGET)

    def test_what_is_grouped_by_is_a_label(self) -> None:
        known = families()
        for place, query in queries().items():
            names = [re.sub(r"_bucket$", "", name) for name in re.findall(r"\bpostern_\w+", query)]
            labels = set().union(TARGET, {"le"}, *(known[name][1] for name in names if name in known))
            for group in re.findall(r"\bby \((.*?)\)", query):
                with self.subTest(place=place):
                    self.assertLessEqual({label.strip() for label in group.split(",")}, labels)

    def test_every_query_is_one(self) -> None:
        expressions = []
        for query in queries().values():
            if not query.startswith("label_values(") and query != "prometheus":
                query = query.replace("$__rate_interval", "5m").replace("$namespace", ".*").replace("$server", ".*")
                expressions.append({"record": "a:b:c", "labels": {"n": str(len(expressions))}, "expr": query})
        self.assertGreater(len(expressions), 50)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rules.yaml"
            path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": expressions}]}))
            run("promtool", "check", "rules", path)

    def test_what_the_docs_call_worth_an_alert_has_one(self) -> None:
        alerted = {name for rule in rules() for name in re.findall(r"\bpostern_\w+", rule["expr"])}
        # A fault in files, which no cluster has.
        local = {"postern_source_problems"}
        for place, query in queries().items():
            if place.startswith("docs/"):
                self.assertLessEqual(set(re.findall(r"\bpostern_\w+", query)) - local, alerted, place)


class Rules(unittest.TestCase):
    def test_they_are_rules(self) -> None:
        run("promtool", "check", "rules", "--lint-fatal", RULES)

    def test_none_fires_when_all_is_well_and_each_alone_in_its_case(self) -> None:
        self.assertEqual(CASES.keys(), {rule["alert"] for rule in rules()})
        tests = [scenario("all is well", {}, set())]
        for alert, (series, more) in CASES.items():
            tests.append(scenario(alert, series, {alert, *more}))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rules.test.yaml"
            path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
            run("promtool", "test", "rules", path)

    def test_each_says_what_to_do(self) -> None:
        for rule in rules():
            with self.subTest(alert=rule["alert"]):
                self.assertIn(rule["labels"]["severity"], ("info", "warning", "critical"))
                self.assertEqual(rule["annotations"].keys(), {"summary", "description"})

    def test_the_object_holds_the_rules(self) -> None:
        [rendered] = [document for document in documents("monitoring") if document["kind"] == "PrometheusRule"]
        wanted = yaml.safe_load(RULES.read_text())
        for group in wanted["groups"]:
            for rule in group["rules"]:
                rule["labels"]["team"] = "platform"
        self.assertEqual(rendered["spec"], wanted)


class Scraping(unittest.TestCase):
    def test_the_plain_configuration_is_one(self) -> None:
        jobs = yaml.safe_load((CHART / "files/scrape.yaml").read_text())
        # Debian's promtool knows no discovery in Kubernetes.
        self.assertEqual([job.pop("kubernetes_sd_configs") for job in jobs], [[{"role": "pod"}]] * 2)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "prometheus.yaml"
            path.write_text(yaml.safe_dump({"scrape_configs": jobs}))
            run("promtool", "check", "config", path)

    def kept_by(self, labels: dict[str, str], port: str, phase: str = "Running") -> list[str]:
        """The jobs that scrape this port of such a pod."""
        target = {
            f"__meta_kubernetes_pod_label_{re.sub('[^a-zA-Z0-9]', '_', name)}": value for name, value in labels.items()
        }
        target |= {"__meta_kubernetes_pod_container_port_name": port, "__meta_kubernetes_pod_phase": phase}

        def is_dropped(rule: dict[str, Any]) -> bool:
            text = ";".join(target.get(name, "") for name in rule["source_labels"])
            matches = bool(re.fullmatch(rule.get("regex", "(.*)"), text))
            return (rule.get("action") == "keep" and not matches) or (rule.get("action") == "drop" and matches)

        jobs = yaml.safe_load((CHART / "files/scrape.yaml").read_text())
        return [job["job_name"] for job in jobs if not any(map(is_dropped, job["relabel_configs"]))]

    def test_the_plain_configuration_keeps_our_ports_and_no_others(self) -> None:
        injected = {"app": "agent", "postern.dev/injected": "true"}
        self.assertEqual(self.kept_by(injected, "postern-met"), ["postern-sidecars"])
        self.assertEqual(self.kept_by(injected, "http"), [], "the agent's own port")
        self.assertEqual(self.kept_by(injected, "metrics"), [], "likewise")
        self.assertEqual(self.kept_by({"app": "agent"}, "postern-met"), [], "no sidecar")
        self.assertEqual(self.kept_by(injected, "postern-met", "Succeeded"), [])
        deployments = [document for document in documents("default") if document["kind"] == "Deployment"]
        self.assertEqual(len(deployments), 2)
        for document in deployments:
            template = document["spec"]["template"]
            ports = [port["name"] for port in template["spec"]["containers"][0]["ports"]]
            kept = {port: self.kept_by(template["metadata"]["labels"], port) for port in ports}
            self.assertEqual({port: jobs for port, jobs in kept.items() if jobs}, {"metrics": ["postern"]})

    def test_a_family_keeps_a_namespace_of_its_own_where_it_has_one(self) -> None:
        own = {name for name, (_, labels) in families().items() if labels & TARGET}
        self.assertEqual(own, {"postern_broker_binding_ready"}, "one of a sidecar would be overwritten")
        plain = {
            job["job_name"]: job.get("honor_labels", False)
            for job in yaml.safe_load((CHART / "files/scrape.yaml").read_text())
        }
        self.assertEqual(plain, {"postern": True, "postern-sidecars": False})
        kinds = {
            document["kind"]: document["spec"] for document in documents("monitoring") if "Monitor" in document["kind"]
        }
        self.assertTrue(kinds["ServiceMonitor"]["endpoints"][0]["honorLabels"])
        self.assertFalse(kinds["PodMonitor"]["podMetricsEndpoints"][0]["honorLabels"])

    def test_the_ports_that_are_scraped_are_those_of_the_pods(self) -> None:
        sidecar = (ROOT / "src/control/admission/sidecar.rs").read_text()
        self.assertIn('"name": "postern-met"', sidecar)
        rendered = documents("monitoring")
        [pod_monitor] = [document for document in rendered if document["kind"] == "PodMonitor"]
        self.assertEqual([endpoint["port"] for endpoint in pod_monitor["spec"]["podMetricsEndpoints"]], ["postern-met"])
        [monitor] = [document for document in rendered if document["kind"] == "ServiceMonitor"]
        port = monitor["spec"]["endpoints"][0]["port"]
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        services = [document for document in rendered if document["kind"] == "Service"]
        self.assertEqual(len(services), 2)
        for service in services:
            self.assertLessEqual(wanted, service["metadata"]["labels"].items())
            self.assertIn(port, [one["name"] for one in service["spec"]["ports"]])

    def test_the_dashboard_is_complete(self) -> None:
        panels = dashboard()["panels"]
        self.assertEqual(len({panel["id"] for panel in panels}), len(panels))
        [config_map] = [
            document for document in documents("monitoring") if document["metadata"]["name"].endswith("-dashboard")
        ]
        self.assertEqual(json.loads(config_map["data"]["postern.json"]), dashboard())


if __name__ == "__main__":
    unittest.main()

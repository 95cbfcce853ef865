import os
import re
import shutil
import subprocess
from pathlib import Path

import dashboards
import generate
import manifests
import promql_parser
import pytest
import watch
import yaml

from boceto import settings
from boceto.telemetry import METRICS
from eval_jobs import settings as evaluating

ROOT = Path(__file__).parents[2]
CONSOLE = (ROOT / "k8s/prometheus/consoles/boceto.html").read_text()
CONFIG = yaml.safe_load((ROOT / "k8s/prometheus/prometheus.yml").read_text())
RULES = generate.rules()
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
PANELS = {f"{name}: {panel.title}": panel for name, (_, panels) in dashboards.DASHBOARDS.items() for panel in panels}
NAMED = {
    "TrainingStalled", "LossNotFinite", "InputStarved", "CheckpointStale", "CheckpointFailing", "RecordsRefused",
    "JobRestartLoop", "GoodputLow", "EvalRegressed", "TargetDown", "JobFailed", "JobNotStarted",
}  # fmt: skip

# Labels that come with scraping, or with a rule.
TARGET = {"namespace", "run", "component", "pod", "instance", "job"}
SERIES = {metric.name: set(metric.labels) for metric in METRICS if metric.kind != "histogram"}
SERIES |= {f"{m.name}{end}": set(m.labels) for m in METRICS if m.kind == "histogram" for end in ("_sum", "_count")}
SERIES |= {f"{m.name}_bucket": {*m.labels, "le"} for m in METRICS if m.kind == "histogram"}
SERIES |= {"up": set(), "process_start_time_seconds": set(), "process_resident_memory_bytes": set()}
OF_JOBS = {"job_name", "owner_name", "owner_kind", "phase", "condition"}  # And of their pods: kube-state-metrics.
OF_JOBS |= {"label_app_kubernetes_io_name", "label_boceto_dev_run"}
SERIES |= {f"kube_job_{name}": OF_JOBS for name in ("labels", "failed", "complete", "status_suspended")}
SERIES |= {f"kube_pod_{name}": OF_JOBS for name in ("owner", "status_phase")}
SERIES |= {"ALERTS": {"alertname", "alertstate", "severity"}}


def walk(node):
    """Every part of a parsed query."""
    yield node
    for name in ("expr", "lhs", "rhs", "param", "vector_selector"):
        below = getattr(node, name, None)
        if below is not None:
            yield from walk(below)
    for argument in getattr(node, "args", None) or []:
        yield from walk(argument)


def labels_of(node):
    """The labels by which an aggregation groups or a comparison joins."""
    modifier = getattr(node, "modifier", None)
    for part in (modifier, getattr(modifier, "matching", None)):
        yield from getattr(part, "labels", None) or []


def check(query, known):
    """Parses a query, and looks up its series and labels."""
    parsed = promql_parser.parse(query)
    allowed = set(TARGET)
    for node in walk(parsed):
        if isinstance(node, promql_parser.VectorSelector):
            assert node.name in known, f"{node.name} is no series of ours"
            allowed |= known[node.name]
            for matcher in node.matchers.matchers:
                assert matcher.name in known[node.name] | TARGET, f"{node.name} has no label {matcher.name}"
    for node in walk(parsed):
        assert set(labels_of(node)) <= allowed
    return {node.name for node in walk(parsed) if isinstance(node, promql_parser.VectorSelector)}


RECORDED_SERIES = {name: {"activity"} if "seconds:" in name else set() for name in RECORDED}
RECORDED_SERIES["boceto:job"] = OF_JOBS
KNOWN = SERIES | RECORDED_SERIES


def test_a_query_that_names_nothing_of_ours_is_found():
    for wrong in ("boceto_train_speed", 'boceto_train_loss{part="train"}', "sum by (split) (boceto_train_steps_total)"):
        with pytest.raises(AssertionError):
            check(wrong, KNOWN)
    assert check("max by (split) (rate(boceto_train_loss[5m])) > 1", KNOWN) == {"boceto_train_loss"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_asks_for_what_there_is(rule):
    assert check(rule["expr"], KNOWN)


@pytest.mark.parametrize("name", PANELS)
def test_a_panel_asks_for_what_there_is_of_the_runs_chosen(name):
    for query in PANELS[name].expressions:
        plain = query.replace("$namespace", "n").replace("$run", "r")
        check(plain, KNOWN)
        selectors = re.findall(r"(?:boceto[:_][\w:]+|up|ALERTS|process_\w+)\{([^}]*)\}", query)
        assert selectors
        assert all(dashboards.CHOSEN in selector for selector in selectors)


def test_the_page_names_only_what_there_is():
    queries = re.findall(r'data-query="([^"]+)"', CONSOLE) + re.findall(r'(?:query|query \(printf) "([^"]+)"', CONSOLE)
    queries += re.findall(r'args \. "([^"]+)"', CONSOLE) + re.findall('const SESSIONS = "([^"]+)"', CONSOLE)
    assert len(queries) >= 25
    for query in queries:
        check(re.sub(r"%s|%", 'run="r"', query), KNOWN)
    assert "http" not in re.sub(r"http-equiv|http://www.w3.org/2000/svg|\^https\?:", "", CONSOLE)


@pytest.mark.parametrize("name", ["the page", *PANELS])
def test_two_namespaces_runs_of_one_name_are_two_lines_and_dead_pods_none(name):
    panel = PANELS.get(name)
    queries = panel.expressions if panel else re.findall(r'data-query="([^"]+)"', CONSOLE)
    for query in queries:
        for group in re.findall(r"by \(([^)]*)\)", query):
            assert "namespace, run" in group or group in {"alertname", "component"}, query
        kinds = set(re.findall(r"\b(boceto_\w+|process_\w+)", query))
        assert not kinds or "boceto:newest_pod" in query, query
    if panel and not panel.title.startswith(("Alerts", "Pods", "Images a second, all")):
        assert all(legend.startswith("{{namespace}}/{{run}}") for legend in panel.legends)


def test_what_is_made_from_the_code_is_current():
    for path, text in generate.files().items():
        assert path.read_text() == text, f"{path.relative_to(ROOT)} is old; run `make generate`"


def test_each_metric_is_looked_at_or_explained():
    queries = [rule["expr"] for rule in RULES] + [each for panel in PANELS.values() for each in panel.expressions]
    looked_at = set(re.findall(r"boceto_\w+?(?=_(?:bucket|sum|count)\b|\b)", "\n".join([*queries, CONSOLE])))
    by_hand = re.sub("<!-- made by.*?<!-- end of", "", generate.GUIDE.read_text(), flags=re.DOTALL)
    assert {metric.name for metric in METRICS} - looked_at == set(re.findall(r"`(boceto_\w+)`", by_hand))


def test_the_alerts_are_those_named_each_with_a_way_out():
    assert set(ALERTS) == NAMED
    runbook = (ROOT / "docs/runbook.md").read_text()
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", runbook, re.MULTILINE | re.DOTALL))
    assert set(sections) == NAMED
    for name, alert in ALERTS.items():
        link = "{{ externalURL }}/consoles/runbook.html#" + name.lower()
        assert alert["annotations"]["runbook_url"] == link
        assert f'<h2 id="{name.lower()}">' in generate.PAGE.read_text()
        assert alert["labels"]["severity"] in {"warning", "critical"}
        assert all(f"**{part}.**" in sections[name] for part in ("Meaning", "Look at", "Do"))


def test_the_runbook_names_only_settings_and_panels_that_there_are():
    runbook = (ROOT / "docs/runbook.md").read_text()
    settings = ""
    for program in ("beam_pipelines", "trainer", "eval_jobs"):
        settings += (ROOT / program / "settings.py").read_text()
    for flag in re.findall(r"`(?:boceto \w+ )?--([a-z-]+)", runbook):
        assert f"    {flag.replace('-', '_')}: " in settings, flag
    titles = {panel.title for panel in PANELS.values()} | {"Targets", "context deadline exceeded", "connection refused"}
    assert set(re.findall(r"(?<!\*)\*([A-Za-z][^*\n]+)\*(?!\*)", runbook)) <= titles


def test_the_runbook_names_only_objects_that_there_are(chain):
    runbook = (ROOT / "docs/runbook.md").read_text()
    named = set(re.findall("`(boceto[a-z-]*)`", runbook))
    assert named
    assert named <= {found["metadata"]["name"] for objects in chain.values() for found in objects}


def test_each_alert_fires_stays_and_clears(tmp_path):
    text = (ROOT / "tests/k8s/rules_test.yml").read_text()
    cases = yaml.safe_load(text)
    tests = [found for case in cases["tests"] for found in case["alert_rule_test"]]
    for name in NAMED:
        fires = [bool(found.get("exp_alerts")) for found in tests if found["alertname"] == name]
        # Where other runs in the same case stay silent, the exact list of alerts says so.
        assert sum(fires) >= 2, name
        assert not all(fires), name
    for path in cases["rule_files"]:  # Debian's promtool has no external URL.
        rules = (ROOT / "tests/k8s" / path).read_text().replace("{{ externalURL }}", "http://prometheus")
        (tmp_path / Path(path).name).write_text(rules)
        text = text.replace(path, Path(path).name)
    (tmp_path / "test.yml").write_text(text)
    done = subprocess.run(
        [watch.tool("promtool"), "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules_and_the_configuration(tmp_path):
    # Debian's promtool knows no Kubernetes: the targets come from a file, the rest is as it is.
    config = tmp_path / "prometheus.yml"
    config.write_text(yaml.safe_dump(watch.configuration(tmp_path / "targets.json", "1s")))
    done = subprocess.run(
        [watch.tool("promtool"), "check", "config", config], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (discovery,) = CONFIG["scrape_configs"][0]["kubernetes_sd_configs"]
    assert discovery == {"role": "pod", "namespaces": {"names": ["default"]}}
    role, _ = yaml.safe_load_all((ROOT / "k8s/prometheus/rights.yaml").read_text())  # The binding is a cluster's own.
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    assert [ROOT / "k8s/prometheus" / name for name in CONFIG["rule_files"]] == [generate.RULES, generate.JOBS]


@pytest.mark.parametrize("name", dashboards.DASHBOARDS)
def test_a_dashboard_is_small_and_has_its_variables(name):
    made = yaml.safe_load(dashboards.build()[name])
    assert 0 < len(made["panels"]) <= dashboards.MOST_PANELS
    assert [variable["name"] for variable in made["templating"]["list"]] == ["datasource", "namespace", "run"]
    for panel in made["panels"]:
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
    assert any(len(panel["fieldConfig"]["defaults"]["thresholds"]["steps"]) > 1 for panel in made["panels"])


def test_the_operator_and_a_bare_prometheus_give_the_same_labels():
    monitor = yaml.safe_load((ROOT / "k8s/components/monitoring/podmonitor.yaml").read_text())
    endpoint = monitor["spec"]["podMetricsEndpoints"][0]
    assert monitor["spec"]["selector"]["matchLabels"] == {"app.kubernetes.io/name": "boceto"}
    assert (endpoint["port"], endpoint["interval"]) == ("metrics", CONFIG["global"]["scrape_interval"])

    def snake(entry):
        keys = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
        return {keys.get(key, key): value for key, value in entry.items()}

    mine = [snake(entry) for entry in endpoint["relabelings"] if entry["targetLabel"] != "job"]
    bare = [entry for entry in CONFIG["scrape_configs"][0]["relabel_configs"] if "target_label" in entry]
    # The operator gives namespace and pod by itself, and drops pods that have ended.
    assert mine == [entry for entry in bare if entry["target_label"] not in {"namespace", "pod"}]
    assert {"targetLabel": "job", "replacement": CONFIG["scrape_configs"][0]["job_name"]} in endpoint["relabelings"]


@pytest.mark.parametrize("component", ["monitoring", "job-alerts"])
def test_one_setting_says_where_the_alerts_links_lead(component, tmp_path):
    kustomization = (ROOT / f"k8s/components/{component}/kustomization.yaml").read_text()
    default = "{{ externalURL }}/consoles/runbook.html"
    assert kustomization.count(default) == 1
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s", ignore=shutil.ignore_patterns("overlays", "*.py"))
    changed = kustomization.replace(default, "https://wiki.example/boceto")
    (tmp_path / f"k8s/components/{component}/kustomization.yaml").write_text(changed)
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [k8s/base/train]\ncomponents: [k8s/components/{component}]\n"
    )
    found = manifests.render(tmp_path)
    assert not [each for each in found if each["metadata"]["name"].endswith("-settings") and "runbook" in str(each)]
    (made,) = manifests.of_kind(found, "PrometheusRule")
    links = [
        rule["annotations"]["runbook_url"]
        for group in made["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert links
    assert all(re.fullmatch(r"https://wiki\.example/boceto#[a-z]+", link) for link in links)


@pytest.mark.parametrize("component", ["monitoring", "scrape-annotations"])
def test_who_asks_to_be_watched_waits_for_a_first_scrape(component, tmp_path):
    base, part = (os.path.relpath(ROOT / "k8s" / each, tmp_path) for each in ("base/eval", f"components/{component}"))
    (tmp_path / "kustomization.yaml").write_text(f"resources: [{base}]\ncomponents: [{part}]\n")
    (job,) = manifests.of_kind(manifests.render(tmp_path), "Job")
    words = job["spec"]["template"]["spec"]["containers"][0]["args"]
    given = settings.parse(evaluating.Settings, "eval", ["--data", "d", "--run", "r", *words[3:]], "").settings
    assert (given.metrics_port, given.metrics_linger) == (9090, 30)

"""Writes the files that are made from others: dashboards, the operator's rules, the runbook's page, a guide's tables.

python k8s/prometheus/generate.py
"""

from pathlib import Path
from typing import Any

import dashboards
import markdown
import yaml

from boceto.telemetry import METRICS, PROGRAMS, Metric

ROOT = Path(__file__).parents[2]
RULES, JOBS = ROOT / "k8s/prometheus/rules.yml", ROOT / "k8s/prometheus/jobs.yml"
COMPONENTS = ROOT / "k8s/components"
RUNBOOK, PAGE = ROOT / "docs/runbook.md", ROOT / "k8s/prometheus/consoles/runbook.html"
GUIDE = ROOT / "docs/monitoring.md"
BEGIN, END = "<!-- made by `make generate`: {} -->", "<!-- end of {} -->"


def rules() -> list[dict[str, Any]]:
    """Returns all rules, as Prometheus reads them."""
    groups = [group for path in (RULES, JOBS) for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def _prometheus_rule(name: str, path: Path) -> str:
    """Returns a file of rules for the Prometheus operator."""
    entry = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": name},
        "spec": yaml.safe_load(path.read_text()),
    }
    text = yaml.safe_dump(entry, sort_keys=False, width=110)
    return f"# Made by `make generate` from {path.relative_to(ROOT)}.\n{text}"


def _runbook_page() -> str:
    """Returns the runbook as a page of Prometheus: a Go template, whose sections have the names of alerts."""
    body = markdown.markdown(RUNBOOK.read_text(), extensions=["toc"]).replace("{{", "{{`{{`}}")
    style = "body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 50rem; padding: 0 1rem }"
    top = '<!DOCTYPE html>\n<!-- Made by `make generate` from docs/runbook.md. -->\n<html lang="en">'
    head = f'<meta charset="utf-8">\n<title>Boceto: runbook</title>\n<style>{style}</style>'
    return f"{top}\n{head}\n{body}\n</html>\n"


def _row(metric: Metric) -> str:
    labels = "; ".join(
        f"`{name}`" + (f": {', '.join(values)}" if values else "") for name, values in metric.labels.items()
    )
    return f"| `{metric.name}` | {metric.kind} | {metric.help} | {labels} |"


def _metrics_tables() -> str:
    """Returns a table of metrics for each program."""
    header = "| name | kind | meaning | labels |\n| --- | --- | --- | --- |"
    tables = []
    for program in ("", *PROGRAMS):
        heading = f"### `boceto {program}`" if program else "### All programs"
        rows = [_row(metric) for metric in METRICS if metric.program == program]
        tables.append("\n".join([f"{heading}\n\n{header}", *rows]))
    return "\n\n".join(tables)


def _alerts_table() -> str:
    rows = ["| alert | severity | after |", "| --- | --- | --- |"]
    for alert in [rule for rule in rules() if "alert" in rule]:
        link = f"[{alert['alert']}](runbook.md#{alert['alert'].lower()})"
        rows.append(f"| {link} | {alert['labels']['severity']} | {alert.get('for', 'at once')} |")
    return "\n".join(rows)


def _guide(text: str) -> str:
    """Returns docs/monitoring.md, `text`, with its tables made anew."""
    for name, table in (("metrics", _metrics_tables()), ("alerts", _alerts_table())):
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n\n{table}\n\n{end}{after}"
    return text


def files() -> dict[Path, str]:
    """Returns the content of each file that is made."""
    monitoring = COMPONENTS / "monitoring"
    return {
        **{monitoring / f"dashboards/{name}.json": text for name, text in dashboards.build().items()},
        monitoring / "rules.yaml": _prometheus_rule("boceto", RULES),
        COMPONENTS / "job-alerts/rules.yaml": _prometheus_rule("boceto-jobs", JOBS),
        PAGE: _runbook_page(),
        GUIDE: _guide(GUIDE.read_text()),
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)

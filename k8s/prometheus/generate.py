"""Writes what is made from the code: dashboards, the operator's rules, and the tables of docs/monitoring.md.

python k8s/prometheus/generate.py
"""

from pathlib import Path
from typing import Any

import dashboards
import yaml

from boceto.telemetry import METRICS, PROGRAMS, Metric

ROOT = Path(__file__).parents[2]
RULES = ROOT / "k8s/prometheus/rules.yml"
COMPONENT = ROOT / "k8s/components/monitoring"
GUIDE = ROOT / "docs/monitoring.md"
BEGIN, END = "<!-- made by `make generate`: {} -->", "<!-- end of {} -->"
HEADINGS = {"": "All programs", **{program: f"`boceto {program}`" for program in PROGRAMS}}


def rules() -> dict[str, Any]:
    """The rules, as Prometheus reads them."""
    return yaml.safe_load(RULES.read_text())


def prometheus_rule() -> str:
    """The same for the Prometheus operator."""
    entry = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "boceto"},
        "spec": rules(),
    }
    return f"# Made by `make generate` from {RULES.relative_to(ROOT)}.\n" + yaml.safe_dump(
        entry, sort_keys=False, width=110
    )


def _row(metric: Metric) -> str:
    labels = "; ".join(
        f"`{name}`" + (f": {', '.join(values)}" if values else "") for name, values in metric.labels.items()
    )
    return f"| `{metric.name}` | {metric.kind} | {metric.help} | {labels} |"


def metrics_tables() -> str:
    """A table of metrics a program."""
    header = "| name | kind | meaning | labels |\n| --- | --- | --- | --- |"
    tables = []
    for program, heading in HEADINGS.items():
        rows = [_row(metric) for metric in METRICS if metric.program == program]
        tables.append("\n".join([f"### {heading}\n\n{header}", *rows]))
    return "\n\n".join(tables)


def alerts_table() -> str:
    """A table of the alerts."""
    alerts = [rule for group in rules()["groups"] for rule in group["rules"] if "alert" in rule]
    rows = []
    for alert in alerts:
        link = f"[{alert['alert']}](runbook.md#{alert['alert'].lower()})"
        rows.append(f"| {link} | {alert['labels']['severity']} | {alert.get('for', 'at once')} |")
    return "\n".join(["| alert | severity | after |\n| --- | --- | --- |", *rows])


def guide(text: str) -> str:
    """docs/monitoring.md, `text`, with its tables made anew."""
    for name, table in (("metrics", metrics_tables()), ("alerts", alerts_table())):
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n\n{table}\n\n{end}{after}"
    return text


def files() -> dict[Path, str]:
    """What stands in each file that is made."""
    made = {COMPONENT / f"dashboards/{name}.json": text for name, text in dashboards.build().items()}
    return {**made, COMPONENT / "rules.yaml": prometheus_rule(), GUIDE: guide(GUIDE.read_text())}


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)

"""Grafana's dashboards Training, Data and Fleet, as code: `build()` gives each one's JSON by its file name."""

from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, dashboard, gauge, prometheus, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as models

MOST_PANELS = 10
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
# Every selector of a panel has these; a recording rule keeps both labels.
CHOSEN = 'namespace=~"$namespace", run=~"$run"'
SHARE, SECONDS, BYTES, COUNT = "percentunit", "s", "bytes", "short"
WIDE, NARROW, HEIGHT = 12, 6, 8


@dataclass(frozen=True)
class Panel:
    """queries: expressions by legend, with `%` for the labels chosen. warn: the value from which it is coloured, or up
    to which with `low`.
    """

    title: str
    unit: str
    queries: dict[str, str]
    warn: float | None = None
    low: bool = False
    stacked: bool = False
    gauge: bool = False

    @property
    def expressions(self) -> list[str]:
        """The queries as Grafana gets them."""
        return [query.replace("%", CHOSEN) for query in self.queries.values()]


TRAINING = (
    Panel(
        "Progress", SHARE, {"{{run}}": "max by (run) (boceto_train_step{%} / boceto_train_last_step{%})"}, gauge=True
    ),
    Panel("Loss", COUNT, {"{{run}} {{split}}": "max by (run, split) (boceto_train_loss{%})"}),
    Panel("Accuracy", SHARE, {"{{run}} {{split}}": "max by (run, split) (boceto_train_accuracy_ratio{%})"}),
    Panel("Images a second", COUNT, {"{{run}}": "boceto:train_images:per_second5m{%}"}),
    Panel(
        "Time of a step by phase",
        SECONDS,
        {"{{run}} {{activity}}": "boceto:train_step_seconds:mean5m{%}"},
        stacked=True,
    ),
    Panel("Waiting for data", SHARE, {"{{run}}": "boceto:train_waiting:ratio5m{%}"}, warn=0.3),
    Panel(
        "Learning rate and gradient norm",
        COUNT,
        {
            "{{run}} learning rate": "max by (run) (boceto_train_learning_rate{%})",
            "{{run}} gradient norm": "max by (run) (boceto_train_gradient_norm{%})",
        },
    ),
    Panel("Age of the newest checkpoint", SECONDS, {"{{run}}": "boceto:train_checkpoint_age:seconds{%}"}, warn=3600),
    Panel(
        "Time of a save, and saves by result",
        COUNT,
        {
            "{{run}} seconds": "sum by (run) (boceto_train_save_seconds_sum{%}) "
            "/ sum by (run) (boceto_train_save_seconds_count{%})",
            "{{run}} {{result}}": "sum by (run, result) (boceto_train_saves_total{%})",
        },
    ),
    Panel(
        "Memory: of the GPUs, or of the process",
        BYTES,
        {
            "{{run}} {{device}} {{state}}": "boceto_train_device_memory_bytes{%} "
            'or on (namespace, run) process_resident_memory_bytes{component="train", %}'
        },
    ),
)

DATA = (
    Panel(
        "Drawings read a second", COUNT, {"{{run}}": "sum by (run) (rate(boceto_prepare_drawings_read_total{%}[5m]))"}
    ),
    Panel(
        "Records written a second",
        COUNT,
        {"{{run}}": "sum by (run) (rate(boceto_prepare_records_written_total{%}[5m]))"},
    ),
    Panel("Parts of the input", COUNT, {"{{run}} {{state}}": "max by (run, state) (boceto_prepare_parts{%})"}),
    Panel("Shards", COUNT, {"{{run}} {{state}}": "max by (run, state) (boceto_prepare_shards{%})"}),
    Panel(
        "Refused by reason",
        COUNT,
        {
            "{{run}} {{reason}}": "sum by (run, reason) (boceto_prepare_drawings_refused_total{%}) "
            "or 0 * sum by (run) (boceto_prepare_drawings_read_total{%})"
        },
    ),
    Panel("Share refused", SHARE, {"{{run}}": "boceto:prepare_refused:ratio{%}"}, warn=0.005),
    Panel("Time left", SECONDS, {"{{run}}": "max by (run) (boceto_prepare_left_seconds{%})"}),
    Panel("Drawings classified a second", COUNT, {"{{run}}": "sum by (run) (rate(boceto_eval_drawings_total{%}[5m]))"}),
    Panel("Accuracy", SHARE, {"{{run}} {{net}} {{split}}": "max by (run, net, split) (boceto_eval_accuracy_ratio{%})"}),
    Panel(
        "Retrieval mAP",
        SHARE,
        {"{{run}} {{net}} {{distance}}": "max by (run, net, distance) (boceto_eval_map_ratio{%})"},
    ),
)

FLEET = (
    Panel(
        "Progress", SHARE, {"{{run}}": "max by (run) (boceto_train_step{%} / boceto_train_last_step{%})"}, gauge=True
    ),
    Panel(
        "Goodput", SHARE, {"{{run}}": "max by (run) (boceto_train_goodput_ratio{%})"}, warn=0.5, low=True, gauge=True
    ),
    Panel(
        "Where the time goes",
        SECONDS,
        {"{{run}} {{activity}}": "max by (run, activity) (boceto_train_run_seconds{%})"},
        stacked=True,
    ),
    Panel("Sessions", COUNT, {"{{run}}": "max by (run) (boceto_train_sessions{%})"}, warn=4),
    Panel("Steps lost", COUNT, {"{{run}}": "sum by (run) (boceto_train_steps_lost_total{%})"}),
    Panel(
        "Alerts that fire",
        COUNT,
        {"{{alertname}}": 'count by (alertname) (ALERTS{alertstate="firing", %}) or vector(0)'},
        warn=1,
    ),
    Panel("Pods that answer", COUNT, {"{{component}}": 'sum by (component) (up{job="boceto", %})'}),
    Panel("Since the last step", SECONDS, {"{{run}}": "boceto:train_progress_age:seconds{%}"}, warn=600),
    Panel("Images a second, all runs", COUNT, {"images/s": "sum(boceto:train_images:per_second5m{%} >= 0)"}),
    Panel(
        "Memory of a process",
        BYTES,
        {"{{run}} {{component}}": "max by (run, component) (process_resident_memory_bytes{%})"},
    ),
)

DASHBOARDS = {"training": ("Training", TRAINING), "data": ("Data", DATA), "fleet": ("Fleet", FLEET)}


def _thresholds(panel: Panel) -> Builder[models.ThresholdsConfig]:
    colours = ("red", "green") if panel.low else ("green", "orange")
    steps = [models.Threshold(value=None, color=colours[0])]
    if panel.warn is not None:
        steps.append(models.Threshold(value=panel.warn, color=colours[1]))
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def _panel(panel: Panel) -> Builder[models.Panel]:
    kind = gauge.Panel() if panel.gauge else timeseries.Panel()
    built = (
        kind.title(panel.title)
        .datasource(SOURCE)
        .unit(panel.unit)
        .min(0)
        .thresholds(_thresholds(panel))
        .height(HEIGHT)
        .span(NARROW if panel.gauge else WIDE)
    )
    if panel.unit == SHARE and panel.gauge:
        built = built.max(1)
    if panel.warn is not None and not panel.gauge:
        built = built.thresholds_style(common.GraphThresholdsStyleConfig().mode(options.GraphTresholdsStyleMode.DASHED))
    if panel.stacked:
        built = built.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL)).fill_opacity(40)
    for number, (legend, query) in enumerate(zip(panel.queries, panel.expressions, strict=True)):
        built = built.with_target(prometheus.Dataquery().expr(query).legend_format(legend).ref_id(chr(65 + number)))
    return built


def _variable(name: str, query: str) -> Builder[models.VariableModel]:
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .query(query)
        .datasource(SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _dashboard(name: str) -> str:
    title, panels = DASHBOARDS[name]
    built = (
        dashboard.Dashboard(f"Boceto: {title}")
        .uid(f"boceto-{name}")
        .tags(["boceto"])
        .refresh("30s")
        .time("now-3h", "now")
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_variable("namespace", "label_values(boceto_build_info, namespace)"))
        .with_variable(_variable("run", 'label_values(boceto_build_info{namespace=~"$namespace"}, run)'))
    )
    for panel in panels:
        built = built.with_panel(_panel(panel))
    return JSONEncoder(sort_keys=True, indent=1).encode(built.build()) + "\n"


def build() -> dict[str, str]:
    """The text of each dashboard by its name."""
    return {name: _dashboard(name) for name in DASHBOARDS}

"""Grafana's dashboards Training, Data and Fleet, as code: `build()` returns their JSON by the name of the file."""

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, dashboard, gauge, prometheus, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as models

MOST_PANELS = 10
# A run keeps its colour, whatever else is shown.
BY_NAME = dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC_BY_NAME)
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
# Every selector of a panel has these; a recording rule keeps both labels.
CHOSEN = 'namespace=~"$namespace", run=~"$run"'
# The newest pod of each program of a run: `~` in a query.
NEWEST = "and on (namespace, run, component, pod) boceto:newest_pod{%}"
# When a trainer has begun again: marked in all charts.
RESTARTS = (
    "max by (namespace, run) (boceto_train_sessions{%}) "
    "> max by (namespace, run) (max_over_time(boceto_train_sessions{%}[1h] offset 1m))"
)
SHARE, SECONDS, BYTES, COUNT = "percentunit", "s", "bytes", "short"
WIDE, NARROW, HEIGHT = 12, 6, 8


@dataclass(frozen=True)
class Panel:
    """One panel of a dashboard.

    queries: expressions by legend, with `%` for the labels chosen and `~` for the newest pod; `@` stands for the run.
    warn: the value from which the panel is coloured, or up to which with `low`.
    """

    title: str
    unit: str
    queries: dict[str, str]
    warn: float | None = None
    low: bool = False
    stacked: bool = False
    gauge: bool = False

    @property
    def legends(self) -> list[str]:
        """The legends as Grafana gets them."""
        return [legend.replace("@", "{{namespace}}/{{run}}") for legend in self.queries]

    @property
    def expressions(self) -> list[str]:
        """The queries as Grafana gets them."""
        return [query.replace("~", NEWEST).replace("%", CHOSEN) for query in self.queries.values()]


def _by(aggregation: str, query: str, *labels: str) -> str:
    """Returns a query for one value of the newest pod a run, or a run and labels."""
    return f"{aggregation} by ({', '.join(('namespace', 'run', *labels))}) ({query} ~)"


PROGRESS = Panel("Progress", SHARE, {"@": _by("max", "boceto_train_step{%} / boceto_train_last_step{%}")}, gauge=True)

TRAINING = (
    PROGRESS,
    Panel("Loss", COUNT, {"@ {{split}}": _by("max", "boceto_train_loss{%}", "split")}),
    Panel("Accuracy", SHARE, {"@ {{split}}": _by("max", "boceto_train_accuracy_ratio{%}", "split")}),
    Panel("Images a second", COUNT, {"@": "boceto:train_images:per_second5m{%}"}),
    Panel("Time of a step by phase", SECONDS, {"@ {{activity}}": "boceto:train_step_seconds:mean5m{%}"}, stacked=True),
    Panel("Waiting for data", SHARE, {"@": "boceto:train_waiting:ratio5m{%}"}, warn=0.3),
    Panel(
        "Learning rate and gradient norm",
        COUNT,
        {
            "@ learning rate": _by("max", "boceto_train_learning_rate{%}"),
            "@ gradient norm": _by("max", "boceto_train_gradient_norm{%}"),
        },
    ),
    Panel("Age of the newest checkpoint", SECONDS, {"@": "boceto:train_checkpoint_age:seconds{%}"}, warn=3600),
    Panel(
        "Time of a save, and saves by result",
        COUNT,
        {
            "@ seconds": "sum by (namespace, run) (boceto_train_save_seconds_sum{%} ~) "
            "/ sum by (namespace, run) (boceto_train_save_seconds_count{%} ~)",
            "@ {{result}}": _by("sum", "boceto_train_saves_total{%}", "result"),
        },
    ),
    Panel(
        "Memory: of the GPUs, or of the process",
        BYTES,
        {
            "@ {{device}} {{state}}": "(boceto_train_device_memory_bytes{%} ~) "
            'or on (namespace, run) (process_resident_memory_bytes{component="train", %} ~)'
        },
    ),
)

DATA = (
    Panel("Drawings read a second", COUNT, {"@": _by("sum", "rate(boceto_prepare_drawings_read_total{%}[5m])")}),
    Panel("Records written a second", COUNT, {"@": _by("sum", "rate(boceto_prepare_records_written_total{%}[5m])")}),
    Panel("Parts of the input", COUNT, {"@ {{state}}": _by("max", "boceto_prepare_parts{%}", "state")}),
    Panel("Shards", COUNT, {"@ {{state}}": _by("max", "boceto_prepare_shards{%}", "state")}),
    Panel(
        "Refused by reason",
        COUNT,
        {
            "@ {{reason}}": "sum by (namespace, run, reason) (boceto_prepare_drawings_refused_total{%} ~) "
            "or 0 * sum by (namespace, run) (boceto_prepare_drawings_read_total{%} ~)"
        },
    ),
    Panel("Share refused", SHARE, {"@": "boceto:prepare_refused:ratio{%}"}, warn=0.005),
    Panel("Time left", SECONDS, {"@": _by("max", "boceto_prepare_left_seconds{%}")}),
    Panel("Drawings classified a second", COUNT, {"@": _by("sum", "rate(boceto_eval_drawings_total{%}[5m])")}),
    Panel("Accuracy", SHARE, {"@ {{net}} {{split}}": _by("max", "boceto_eval_accuracy_ratio{%}", "net", "split")}),
    Panel(
        "Retrieval mAP", SHARE, {"@ {{net}} {{distance}}": _by("max", "boceto_eval_map_ratio{%}", "net", "distance")}
    ),
)

FLEET = (
    PROGRESS,
    Panel("Goodput", SHARE, {"@": _by("max", "boceto_train_goodput_ratio{%}")}, warn=0.5, low=True, gauge=True),
    Panel(
        "Where the time goes",
        SECONDS,
        {"@ {{activity}}": _by("max", "boceto_train_run_seconds{%}", "activity")},
        stacked=True,
    ),
    Panel("Sessions", COUNT, {"@": _by("max", "boceto_train_sessions{%}")}, warn=4),
    Panel("Steps lost", COUNT, {"@": _by("sum", "boceto_train_steps_lost_total{%}")}),
    Panel(
        "Alerts that fire",
        COUNT,
        {"{{alertname}}": 'count by (alertname) (ALERTS{alertstate="firing", %}) or vector(0)'},
        warn=1,
    ),
    Panel("Pods that answer", COUNT, {"{{component}}": 'sum by (component) (up{job="boceto", %})'}),
    Panel("Since the last step", SECONDS, {"@": "boceto:train_progress_age:seconds{%}"}, warn=600),
    Panel("Images a second, all runs", COUNT, {"images/s": "sum(boceto:train_images:per_second5m{%} >= 0)"}),
    Panel(
        "Memory of a process", BYTES, {"@ {{component}}": _by("max", "process_resident_memory_bytes{%}", "component")}
    ),
)

DASHBOARDS = {"training": ("Training", TRAINING), "data": ("Data", DATA), "fleet": ("Fleet", FLEET)}


def _panel(panel: Panel) -> Builder[models.Panel]:
    kind = gauge.Panel() if panel.gauge else timeseries.Panel().span_nulls(span_nulls=False).color_scheme(BY_NAME)
    colours, values = ("red", "green") if panel.low else ("green", "orange"), (None, panel.warn)
    steps = [models.Threshold(value=value, color=colour) for value, colour in zip(values, colours, strict=True)]
    steps = steps[: 1 if panel.warn is None else 2]
    built = (
        kind.title(panel.title)
        .datasource(SOURCE)
        .unit(panel.unit)
        .min(0)
        .thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
        .height(HEIGHT)
        .span(NARROW if panel.gauge else WIDE)
    )
    if panel.gauge:
        built = built.max(1)
    elif panel.warn is not None:
        built = built.thresholds_style(common.GraphThresholdsStyleConfig().mode(options.GraphTresholdsStyleMode.DASHED))
    if panel.stacked:
        built = built.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL)).fill_opacity(40)
    for number, (legend, query) in enumerate(zip(panel.legends, panel.expressions, strict=True)):
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


def _dashboard(name: str, title: str, panels: Sequence[Panel]) -> str:
    built = (
        dashboard.Dashboard(f"Boceto: {title}")
        .uid(f"boceto-{name}")
        .tags(["boceto"])
        .refresh("30s")
        .time("now-3h", "now")
        .readonly()
        .annotation(
            dashboard.AnnotationQuery()
            .name("Restarts")
            .datasource(SOURCE)
            .enable(enable=True)
            .icon_color("orange")
            .expr(RESTARTS.replace("%", CHOSEN))
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_variable("namespace", "label_values(boceto_build_info, namespace)"))
        .with_variable(_variable("run", 'label_values(boceto_build_info{namespace=~"$namespace"}, run)'))
    )
    for panel in panels:
        built = built.with_panel(_panel(panel))
    return JSONEncoder(sort_keys=True, indent=1).encode(built.build()) + "\n"


def build() -> dict[str, str]:
    """Returns the JSON of each dashboard by its name."""
    return {name: _dashboard(name, *parts) for name, parts in DASHBOARDS.items()}

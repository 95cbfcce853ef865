from beam_pipelines.__main__ import main
from beam_pipelines.pipeline import PrepareJob
from beam_pipelines.progress import Watch
from beam_pipelines.settings import Settings
from boceto import storage
from boceto.telemetry import Telemetry


def test_a_finished_job_has_as_many_shards_as_were_planned(tmp_path):
    output = str(tmp_path)
    counts = {"train_per_class": 6, "test_per_class": 2, "records_per_shard": 4}
    words = [word for name, count in counts.items() for word in (f"--{name.replace('_', '-')}", str(count))]
    assert main(["--source", "synthetic", "--output", output, "--classes", "2", "--workers", "1", *words]) == 0
    watch = Watch(PrepareJob(Settings(output, **counts), ("arrow", "star")), 2, Telemetry())
    for number, text in ((0, '{"drawings": 8, "refused": {"no_strokes": 1}}'), (1, '{"drawings": 9, "refused": {}}')):
        storage.write_bytes(f"{output}/_work/read-{number}.json", text.encode())
        said, *amount = watch.look()
        assert (said.partition(",")[0], *amount) == [("reading", 1, 2, "parts"), ("writing", 4, 4, "shards")][number]


def test_the_shards_of_drawings_that_the_source_divides_are_counted_when_the_first_is_there(tmp_path):
    watch = Watch(PrepareJob(Settings(str(tmp_path)), ("arrow", "star")), 1, Telemetry())
    assert watch.look()[1:] == (0, 1, "parts")
    storage.write_bytes(f"{tmp_path}/_work/read-0.json", b"{}")
    storage.write_bytes(f"{tmp_path}/train-00003-of-00005.tfrecord", b"")
    assert watch.look() == ("writing", 1, 5, "shards")

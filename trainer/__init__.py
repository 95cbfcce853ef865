"""TFRecord shards to checkpoints and an artefact: `boceto train`."""

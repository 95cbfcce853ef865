"""Strokes to sharded TFRecords, as an Apache Beam pipeline: `boceto prepare`."""

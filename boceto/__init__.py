"""What Boceto's programs agree on: records, data sets, artefacts, settings, errors. Imports none of them."""

__version__ = "0.1.0"

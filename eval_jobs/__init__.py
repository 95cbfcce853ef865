"""An artefact and its data set to scores and a report: `boceto eval`."""

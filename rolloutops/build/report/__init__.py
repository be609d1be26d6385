"""The pages beside a build's files: report, card and croissant.json."""

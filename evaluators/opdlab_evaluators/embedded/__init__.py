"""Problem families that come with the package: unlimited problems, strict graders, correct traces."""

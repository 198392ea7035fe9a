"""A stand-in for a Jenkins controller that really runs the shell steps of its jobs; see jenkins.Jenkins."""

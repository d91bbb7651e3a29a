"""What `elasticvit fsck` checks in a home folder. Nothing is changed, so that a service may run meanwhile."""

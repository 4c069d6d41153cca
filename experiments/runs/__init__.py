"""Running many studies: directory, hosts, progress, estimates, replay."""

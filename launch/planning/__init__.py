"""What `launch.plan` is made of: programs compiled for devices that are not there, and read."""

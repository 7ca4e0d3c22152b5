"""OpenPBS, PBS Professional and Torque."""

"""What the kernels share: functions that run inside them, and the tables that they read."""

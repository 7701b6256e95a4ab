"""The parts of commands: configuration, launching processes, run directories, locks."""

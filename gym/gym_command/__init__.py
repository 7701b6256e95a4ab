"""What commands are made of: configuration, launching of processes, run directories, locks."""

"""One replica: session, control protocol, reload, file watcher, health. Entry: `server.Server`."""

"""Run the graphs of a bundle: in process, or on a server."""

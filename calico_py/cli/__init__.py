"""`calico-py`: one module per subcommand group. Parses arguments, calls one function, prints."""

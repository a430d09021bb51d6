"""Work that is made of our own commands: each run once as a child process, gone on with when it was stopped."""

"""The command line: a front door without torch, and LightningCLI behind it."""
